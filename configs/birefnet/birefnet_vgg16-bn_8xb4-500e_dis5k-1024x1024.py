_base_ = [
    '../_base_/models/birefnet_vgg16-bn.py',
    '../_base_/datasets/dis5k_1024x1024.py',
    '../_base_/losses/dis5k.py',
    '../_base_/schedules/adamw_500e.py',
    '../_base_/default_runtime.py',
]
model = dict(decode_head=dict(loss_decode=_base_.loss_decode))
default_hooks = dict(loss_schedule=_base_.loss_schedule)
