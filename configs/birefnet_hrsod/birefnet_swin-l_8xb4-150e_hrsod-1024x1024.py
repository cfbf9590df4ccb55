_base_ = [
    '../_base_/models/birefnet_swin-l.py',
    '../_base_/datasets/hrsod_1024x1024.py',
    '../_base_/schedules/adamw_150e.py',
    '../_base_/default_runtime.py',
]
