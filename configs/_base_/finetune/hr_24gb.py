# Recipe: 2048x2048 on one card of 24 GB: one image at a time in bfloat16, eight of them for a step, activations
# computed again in the backward pass, BatchNorm as it is, and half of the images as crops at their own resolution.
model = dict(
    backbone=dict(with_cp=True),
    neck=dict(norm_cfg=dict(type='mmbirefnet.FrozenBN')),
    decode_head=dict(with_cp=True, norm_cfg=dict(type='mmbirefnet.FrozenBN')),
)
train_dataloader = dict(batch_size=1)
optim_wrapper = dict(type='mmbirefnet.BFloat16OptimWrapper', accumulative_counts=8)
before_resize = [dict(type='mmbirefnet.EdgeCrop', size=(2048, 2048), prob=0.5)]
