_base_ = [
    '../_base_/models/birefnet_pvtv2-b2.py',
    '../_base_/datasets/dis5k_1024x1024.py',
    '../_base_/schedules/adamw_500e.py',
    '../_base_/default_runtime.py',
]
