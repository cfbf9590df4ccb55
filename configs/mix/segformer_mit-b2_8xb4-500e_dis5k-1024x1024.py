# mmsegmentation's SegFormer with the data, losses, schedule and metric of BiRefNet.
_base_ = [
    'mmseg::_base_/models/segformer_mit-b0.py',
    '../_base_/datasets/dis5k_1024x1024.py',
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
    decode_head=dict(
        in_channels=[64, 128, 320, 512],
        num_classes=2,
        out_channels=1,
        threshold=0.5,
        loss_decode=[
            dict(type='mmbirefnet.BCELoss', loss_weight=30.0),
            dict(type='mmbirefnet.IoULoss', loss_weight=0.5),
            dict(type='mmbirefnet.SSIMLoss', loss_weight=10.0),
        ],
    ),
)
