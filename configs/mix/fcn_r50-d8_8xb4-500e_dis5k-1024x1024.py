# mmsegmentation's FCN with its auxiliary head, and the data, losses, schedule and metric of BiRefNet.
_base_ = [
    'mmseg::_base_/models/fcn_r50-d8.py',
    '../_base_/models/one_map.py',
    '../_base_/datasets/dis5k_1024x1024.py',
    '../_base_/losses/dis5k.py',
    '../_base_/schedules/adamw_500e.py',
    '../_base_/default_runtime.py',
]
model = dict(
    data_preprocessor=dict(size_divisor=32),
    decode_head=dict(loss_decode=_base_.loss_decode, **_base_.one_map),
    auxiliary_head=_base_.auxiliary_head,
)
default_hooks = dict(loss_schedule=_base_.loss_schedule)
