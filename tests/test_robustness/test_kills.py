"""A BiRefNet in training, by the command line and with worker processes, is killed and resumed."""

import os
import signal

import pytest
import torch
from processes import ROOT, alive, children_of, finish, start, wait_for
from small_training import assert_same, flatten

from mmbirefnet.datasets.synthetic import write_dataset

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


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('kills')
    for _ in write_dataset(str(folder / 'data'), {'DIS-TR': 8, 'DIS-VD': 2}, (80, 96), seed=0):
        pass
    (folder / 'tiny.py').write_text(TINY)
    return folder


def train(folder, work_dir, *options):
    environment = dict(MMBIREFNET_DATA='data', CUDA_VISIBLE_DEVICES='', OMP_NUM_THREADS='1')
    return start(folder, 'tools/train.py', 'tiny.py', '--work-dir', work_dir, *options, **environment)


def saved_state(folder, work_dir):
    """What the last checkpoint holds, without times, paths and the log."""
    checkpoint = torch.load(folder / work_dir / 'iter_12.pth')
    hub = checkpoint.pop('message_hub')
    meta = checkpoint.pop('meta')
    logs = {name: hub['log_scalars'][name].data[0].tolist() for name in ('train/loss', 'train/lr', 'val/wFmeasure')}
    state = {}
    flatten('', dict(checkpoint, logs=logs, where=(meta['epoch'], meta['iter'])), state)
    assert {name.split('.')[1] for name in state} >= {'state_dict', 'ema_state_dict', 'optimizer', 'param_schedulers'}
    return state


@pytest.mark.slow
def test_terminated_killed_and_resumed_equals_uninterrupted(folder):
    whole = train(folder, 'whole', '--cfg-options', 'train_dataloader.num_workers=1')
    finish(whole, folder)

    run = train(folder, 'run')
    wait_for((folder / 'run/iter_2.pth').exists)
    # As Slurm does it: to all processes, those that load data first.
    for pid in [*children_of(run.pid), run.pid]:
        os.kill(pid, signal.SIGTERM)
    output = finish(run, folder, 128 + signal.SIGTERM)
    assert 'SIGTERM: stopped after iteration' in output
    assert 'Traceback' not in output
    done = torch.load(folder / 'run/interrupted.pth')['meta']['iter']
    assert 2 <= done < 12

    run = train(folder, 'run', '--resume')
    wait_for(lambda: not (folder / 'run/interrupted.pth').exists())  # a newer checkpoint is there
    workers = children_of(run.pid)
    assert len(workers) >= 2
    os.kill(run.pid, signal.SIGKILL)
    run.join()
    wait_for(lambda: not alive(workers), seconds=5)

    finish(train(folder, 'run', '--resume'), folder)
    assert_same(saved_state(folder, 'run'), saved_state(folder, 'whole'))
