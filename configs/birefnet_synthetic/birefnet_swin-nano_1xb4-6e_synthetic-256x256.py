# A BiRefNet that is small enough to train from scratch on a CPU in minutes; `make demo` runs it.
_base_ = [
    '../_base_/models/birefnet.py',
    '../_base_/datasets/synthetic_256x256.py',
    '../_base_/losses/dis5k.py',
    '../_base_/default_runtime.py',
]
max_epochs = 6
iterations = 40 * max_epochs
aspp_cfg = dict(branch_channels=64, kernel_sizes=(1, 1, 3), dilations=(1, 1, 1))
model = dict(
    backbone=dict(
        type='mmbirefnet.SwinTransformer',
        arch=dict(embed_dims=32, depths=(2, 2, 2, 2), num_heads=(1, 2, 4, 8), window_size=8),
        drop_path_rate=0.0,
    ),
    backbone_channels=[32, 64, 128, 256],
    neck=dict(aspp_cfg=aspp_cfg),
    decode_head=dict(aspp_cfg=aspp_cfg, loss_decode=_base_.loss_decode),
)
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-3, weight_decay=1e-2))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, end=20, by_epoch=False),
    dict(type='CosineAnnealingLR', begin=20, T_max=iterations - 20, by_epoch=False),
]
train_cfg = dict(type='mmbirefnet.ResumableTrainLoop', max_epochs=max_epochs, val_interval=max_epochs)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
default_hooks = dict(logger=dict(interval=10), checkpoint=dict(interval=max_epochs, max_keep_ckpts=1))
