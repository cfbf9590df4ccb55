# BiRefNet_dynamic or BiRefNet_dynamic-matting on your own images: --cfg-options data_root=DIR load_from=CHECKPOINT.
# See docs/en/user_guides/finetune.md.
_base_ = [
    '../_base_/models/birefnet_swin-l.py',
    '../_base_/datasets/folder_256x256-2304x2304.py',
    '../_base_/losses/general.py',
    '../_base_/schedules/finetune_20e.py',
    '../_base_/finetune_runtime.py',
]
model = dict(
    backbone=dict(with_cp=True, init_cfg=None),  # its parameters are in the checkpoint
    decode_head=dict(with_cp=True, loss_decode=_base_.loss_decode),
)
train_dataloader = dict(batch_size=2)
env_cfg = dict(cudnn_benchmark=False)  # it would search for the fastest kernels at every size
