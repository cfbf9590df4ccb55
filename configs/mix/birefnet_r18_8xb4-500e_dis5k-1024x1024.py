# BiRefNet on mmsegmentation's ResNet-18.
_base_ = [
    '../_base_/models/birefnet_swin-t.py',
    '../_base_/datasets/dis5k_1024x1024.py',
    '../_base_/schedules/adamw_500e.py',
    '../_base_/default_runtime.py',
]
in_channels = [128, 256, 512, 1024]  # twice the backbone's, for the multi-scale input
model = dict(
    backbone=dict(
        _delete_=True,
        type='ResNetV1c',
        depth=18,
        init_cfg=dict(type='Pretrained', checkpoint='open-mmlab://resnet18_v1c'),
    ),
    neck=dict(in_channels=in_channels),
    decode_head=dict(in_channels=in_channels),
)
