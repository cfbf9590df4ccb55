# BiRefNet on mmsegmentation's ResNet-18.
_base_ = [
    '../_base_/models/birefnet.py',
    '../_base_/datasets/dis5k_1024x1024.py',
    '../_base_/losses/dis5k.py',
    '../_base_/schedules/adamw_500e.py',
    '../_base_/default_runtime.py',
]
model = dict(
    backbone=dict(
        type='ResNetV1c',
        depth=18,
        init_cfg=dict(type='Pretrained', checkpoint='open-mmlab://resnet18_v1c'),
    ),
    backbone_channels=[64, 128, 256, 512],
    decode_head=dict(loss_decode=_base_.loss_decode),
)
default_hooks = dict(loss_schedule=_base_.loss_schedule)
