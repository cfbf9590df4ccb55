# A released Swin-T model on your own images: --cfg-options data_root=DIR load_from=CHECKPOINT.
# See docs/en/user_guides/finetune.md.
_base_ = [
    '../_base_/models/birefnet_swin-t.py',
    '../_base_/datasets/folder_1024x1024.py',
    '../_base_/losses/general.py',
    '../_base_/schedules/finetune_20e.py',
    '../_base_/finetune_runtime.py',
]
model = dict(
    backbone=dict(init_cfg=None),  # its parameters are in the checkpoint
    decode_head=dict(loss_decode=_base_.loss_decode),
)
train_dataloader = dict(batch_size=4)
