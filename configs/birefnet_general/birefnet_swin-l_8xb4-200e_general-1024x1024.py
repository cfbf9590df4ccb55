_base_ = [
    '../_base_/models/birefnet_swin-l.py',
    '../_base_/datasets/general_1024x1024.py',
    '../_base_/schedules/adamw_200e_general.py',
    '../_base_/default_runtime.py',
]
model = dict(decode_head=dict(loss_decode=_base_.loss_decode))
