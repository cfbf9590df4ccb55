# BiRefNet on mmpretrain's ConvNeXt-T.
_base_ = [
    '../_base_/models/birefnet.py',
    '../_base_/datasets/dis5k_1024x1024.py',
    '../_base_/losses/dis5k.py',
    '../_base_/schedules/adamw_500e.py',
    '../_base_/default_runtime.py',
]
model = dict(
    backbone=dict(
        type='mmpretrain.ConvNeXt',
        arch='tiny',
        out_indices=(0, 1, 2, 3),
        gap_before_final_norm=False,  # True would return means of the maps
        drop_path_rate=0.2,
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://download.openmmlab.com/mmclassification/v0/convnext/downstream/'
            'convnext-tiny_3rdparty_32xb128-noema_in1k_20220301-795e9634.pth',
            prefix='backbone.',
        ),
    ),
    backbone_channels=[96, 192, 384, 768],
    decode_head=dict(loss_decode=_base_.loss_decode),
)
default_hooks = dict(loss_schedule=_base_.loss_schedule)
