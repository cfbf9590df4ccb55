"""A BiRefNet of 8 dimensions in training by the command line, with all that is random in one; seconds long."""

from processes import ROOT, start

from mmbirefnet.datasets.preparation.synthetic import write_dataset

(CONFIG,) = (ROOT / 'configs/birefnet_synthetic').glob('birefnet_swin-nano_1xb4-6e_synthetic-*.py')
# Three epochs of four iterations, with all that is random in a training and in its augmentations.
TINY = f"""
_base_ = '{CONFIG}'
model = dict(
    backbone=dict(
        arch=dict(embed_dims=8, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2), window_size=4), drop_path_rate=0.5),
    neck=dict(in_channels=[16, 32, 64, 128]),
    decode_head=dict(in_channels=[16, 32, 64, 128]),
)
train_pipeline = [
    dict(type='mmbirefnet.LoadImage'),
    dict(type='mmbirefnet.LoadMask'),
    dict(type='mmbirefnet.Resize', scale=(64, 64)),
    dict(type='RandomFlip', prob=0.5),
    dict(type='mmbirefnet.RandomRotate', prob=0.5),
    dict(type='mmbirefnet.ColorEnhance'),
    dict(type='mmbirefnet.SaltAndPepper'),
    dict(type='mmbirefnet.PackDichotomousInputs'),
]
test_pipeline = [
    dict(type='mmbirefnet.LoadImage'),
    dict(type='mmbirefnet.Resize', scale=(64, 64)),
    dict(type='mmbirefnet.LoadMask'),
    dict(type='mmbirefnet.PackDichotomousInputs'),
]
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, end=5, by_epoch=False),
    dict(type='MultiStepLR', milestones=[1, 2], gamma=0.5, by_epoch=True),
]
train_dataloader = dict(batch_size=2, num_workers=2, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(measures=['MAE', 'wFmeasure'])
train_cfg = dict(max_epochs=3, val_interval=2)
default_hooks = dict(checkpoint=dict(interval=2, by_epoch=False, max_keep_ckpts=2))
custom_hooks = [
    dict(type='EMAHook', momentum=0.1),
    dict(type='mmbirefnet.LossScheduleHook', last_epochs=2, factors=dict(BCELoss=0.5, IoULoss=2.0)),
]
"""
ENVIRONMENT = dict(MMBIREFNET_DATA='data', CUDA_VISIBLE_DEVICES='', OMP_NUM_THREADS='1')


def write_folder(folder, more='', **counts):
    """Draw data, and write the config ``tiny.py`` with ``more`` lines."""
    for _ in write_dataset(str(folder / 'data'), counts or {'DIS-TR': 8, 'DIS-VD': 2}, (80, 96), seed=0):
        pass
    (folder / 'tiny.py').write_text(TINY + more)


def train(folder, work_dir, *options):
    """Start the training."""
    return start(folder, 'tools/train.py', 'tiny.py', '--work-dir', work_dir, *options, **ENVIRONMENT)
