# mmsegmentation's SegFormer with the data, losses, schedule and metric of BiRefNet.
_base_ = [
    'mmseg::_base_/models/segformer_mit-b0.py',
    '../_base_/models/one_map.py',
    '../_base_/datasets/dis5k_1024x1024.py',
    '../_base_/losses/dis5k.py',
    '../_base_/schedules/adamw_500e.py',
    '../_base_/default_runtime.py',
]
model = dict(
    data_preprocessor=dict(size_divisor=32),
    backbone=dict(
        embed_dims=64,
        num_layers=[3, 4, 6, 3],
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://download.openmmlab.com/mmsegmentation/v0.5/pretrain/segformer/mit_b2_20220624-66e8bf70.pth',
        ),
    ),
    decode_head=dict(in_channels=[64, 128, 320, 512], loss_decode=_base_.loss_decode, **_base_.one_map),
)
default_hooks = dict(loss_schedule=_base_.loss_schedule)
