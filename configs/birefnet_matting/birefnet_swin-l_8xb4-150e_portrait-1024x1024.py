_base_ = [
    '../_base_/models/birefnet_swin-l.py',
    '../_base_/datasets/portrait_1024x1024.py',
    '../_base_/losses/matting.py',
    '../_base_/schedules/adamw_150e.py',
    '../_base_/default_runtime.py',
]
model = dict(decode_head=dict(loss_decode=_base_.loss_decode))
default_hooks = dict(loss_schedule=_base_.loss_schedule, checkpoint=dict(save_best='MAE'))
