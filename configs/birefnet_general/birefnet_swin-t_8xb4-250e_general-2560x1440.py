_base_ = [
    '../_base_/models/birefnet_swin-t.py',
    '../_base_/datasets/general_2560x1440.py',
    '../_base_/losses/general.py',
    '../_base_/schedules/adamw_250e.py',
    '../_base_/default_runtime.py',
]
model = dict(decode_head=dict(loss_decode=_base_.loss_decode))
default_hooks = dict(
    loss_schedule=_base_.loss_schedule,
    checkpoint=dict(interval=2, max_keep_ckpts=15),  # at the end those of the last 30 epochs
)
