# The small model of the demo on your own images, for a CPU; see the walkthrough in docs/en/user_guides/finetune.md.
_base_ = './birefnet_swin-nano_1xb4-6e_synthetic-256x256.py'
import os  # noqa: E402

max_epochs = 3
data_root = os.environ.get('MMBIREFNET_DATA', 'data')
dataset = dict(_delete_=True, type='mmbirefnet.FolderDataset', data_root=data_root)
train_dataloader = dict(dataset=dict(dataset, split='train', pipeline=_base_.train_pipeline), drop_last=False)
val_dataloader = dict(dataset=dict(dataset, split='val', pipeline=_base_.test_pipeline, test_mode=True))
test_dataloader = val_dataloader
optim_wrapper = dict(optimizer=dict(lr=3e-4))
param_scheduler = []
train_cfg = dict(max_epochs=max_epochs, val_interval=1)
default_hooks = dict(
    checkpoint=dict(interval=1),
    pretrained_checkpoint=dict(type='mmbirefnet.PretrainedCheckpointHook'),
    soft_masks=dict(type='mmbirefnet.SoftMaskHook'),
)
