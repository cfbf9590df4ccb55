# BiRefNet on mmpretrain's ConvNeXt-T, whose stages are as wide as Swin-T's.
_base_ = [
    '../_base_/models/birefnet_swin-t.py',
    '../_base_/datasets/dis5k_1024x1024.py',
    '../_base_/schedules/adamw_500e.py',
    '../_base_/default_runtime.py',
]
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmpretrain.ConvNeXt',
        arch='tiny',
        out_indices=(0, 1, 2, 3),
        gap_before_final_norm=False,  # True would give the maps' means
        drop_path_rate=0.2,
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://download.openmmlab.com/mmclassification/v0/convnext/downstream/'
            'convnext-tiny_3rdparty_32xb128-noema_in1k_20220301-795e9634.pth',
            prefix='backbone.',
        ),
    ),
)
