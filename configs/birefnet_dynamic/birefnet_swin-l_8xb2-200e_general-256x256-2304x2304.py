_base_ = [
    '../_base_/models/birefnet_swin-l.py',
    '../_base_/datasets/general_256x256-2304x2304.py',
    '../_base_/losses/general.py',
    '../_base_/schedules/adamw_200e.py',
    '../_base_/default_runtime.py',
]
model = dict(backbone=dict(with_cp=True), decode_head=dict(with_cp=True, loss_decode=_base_.loss_decode))
train_dataloader = dict(batch_size=2)
optim_wrapper = dict(optimizer=dict(lr=1e-5 * (2 / 4) ** 0.5))
auto_scale_lr = dict(base_batch_size=16, base_batch_per_gpu=2)
env_cfg = dict(cudnn_benchmark=False)  # it would search for the fastest kernels at every size
default_hooks = dict(loss_schedule=_base_.loss_schedule)
