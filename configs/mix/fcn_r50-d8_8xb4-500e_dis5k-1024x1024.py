# mmsegmentation's FCN, its auxiliary head too, with the data, losses, schedule and metric of BiRefNet.
_base_ = [
    'mmseg::_base_/models/fcn_r50-d8.py',
    '../_base_/datasets/dis5k_1024x1024.py',
    '../_base_/schedules/adamw_500e.py',
    '../_base_/default_runtime.py',
]
one_map = dict(num_classes=2, out_channels=1, threshold=0.5)
model = dict(
    data_preprocessor=dict(size_divisor=32),
    decode_head=dict(
        loss_decode=[
            dict(type='mmbirefnet.BCELoss', loss_weight=30.0),
            dict(type='mmbirefnet.IoULoss', loss_weight=0.5),
            dict(type='mmbirefnet.SSIMLoss', loss_weight=10.0),
        ],
        **one_map,
    ),
    auxiliary_head=dict(loss_decode=dict(_delete_=True, type='mmbirefnet.BCELoss', loss_weight=12.0), **one_map),
)
