# Recipe: 2048x2048 on a GPU with 24 GB: batches of one image in bfloat16, accumulated over eight, activation
# checkpointing, frozen BatchNorm, and crops at the original resolution for half of the images.
model = dict(
    backbone=dict(with_cp=True),
    neck=dict(norm_cfg=dict(type='mmbirefnet.FrozenBN')),
    decode_head=dict(with_cp=True, norm_cfg=dict(type='mmbirefnet.FrozenBN')),
)
train_dataloader = dict(batch_size=1)
optim_wrapper = dict(type='mmbirefnet.BFloat16OptimWrapper', accumulative_counts=8)
before_resize = [dict(type='mmbirefnet.EdgeCrop', size=(2048, 2048), prob=0.5)]
