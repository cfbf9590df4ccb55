# BiRefNet's localization module as the neck of mmsegmentation's UPerNet: its upernet_r50_4xb4-80k with one more line.
_base_ = [
    'mmseg::_base_/models/upernet_r50.py',
    'mmseg::_base_/datasets/ade20k.py',
    'mmseg::_base_/schedules/schedule_80k.py',
    'mmseg::_base_/default_runtime.py',
]
norm_cfg = dict(type='SyncBN', requires_grad=True)
model = dict(
    data_preprocessor=dict(size=(512, 512)),
    neck=dict(type='mmbirefnet.LocalizationModule', in_channels=[256, 512, 1024, 2048], norm_cfg=norm_cfg),
    decode_head=dict(num_classes=150),
    auxiliary_head=dict(num_classes=150),
)
auto_scale_lr = dict(enable=False, base_batch_size=16)  # 4 GPUs with 4 images each
