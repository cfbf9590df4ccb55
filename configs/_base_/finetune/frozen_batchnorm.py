# Recipe: BatchNorm keeps the statistics, scale and shift of the checkpoint, for batches of 1 to 4 images.
model = dict(
    neck=dict(norm_cfg=dict(type='mmbirefnet.FrozenBN')),
    decode_head=dict(norm_cfg=dict(type='mmbirefnet.FrozenBN')),
)
