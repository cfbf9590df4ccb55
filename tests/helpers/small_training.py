"""A training with everything that has a state, small enough to be stopped after each of its iterations."""

import hashlib
import random
from pathlib import Path

import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from mmseg.structures import SegDataSample
from torch import nn
from torch.utils.data import Dataset

from mmbirefnet.models.losses import BCELoss, IoULoss

LENGTH, BATCH, EPOCHS = 10, 2, 3
ITERATIONS = EPOCHS * LENGTH // BATCH


class RandomData(Dataset):
    """Images that all generators of a process augment."""

    metainfo = {}

    def __init__(self, length=LENGTH, damaged=()):
        self.length = length
        self.damaged = damaged

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        if index in self.damaged:
            raise OSError(f'im/{index}.png: truncated')
        image = torch.full((1, 4, 4), index / self.length) + random.random() + np.random.rand() + torch.rand(1, 4, 4)  # noqa: NPY002
        return dict(inputs=image, data_samples=SegDataSample(metainfo=dict(img_path=f'im/{index}.png')))


class SmallModel(BaseModel):
    """Batch norm, dropout, and losses whose weights change; keeps what it was given."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Dropout(0.3), nn.Conv2d(4, 1, 1)
        )
        self.losses = nn.ModuleList([BCELoss(30.0), IoULoss(0.5)])
        self.seen = []

    def forward(self, inputs, data_samples=None, mode='tensor'):
        inputs = torch.stack(inputs)
        logits = self.layers(inputs)
        if mode != 'loss':
            return data_samples
        losses = {f'loss_{i}': loss(logits, inputs.clamp(0, 1)) for i, loss in enumerate(self.losses)}
        digest = hashlib.sha256(inputs.numpy().tobytes()).hexdigest()[:8]
        self.seen.append((digest, *(loss.loss_weight for loss in self.losses), losses['loss_0'].item()))
        return losses


class Score(BaseMetric):
    """Best in the second validation."""

    def __init__(self):
        super().__init__()
        self.validations = 0

    def process(self, data_batch, data_samples):
        self.results.append(len(data_samples))

    def compute_metrics(self, results):
        return dict(score=sum(results))


class Interrupt(Hook):
    """Calls a function after the iteration of this number (from 1), before or after checkpoints are saved."""

    def __init__(self, iteration, action, priority='LOWEST'):
        self.iteration = iteration
        self.action = action
        self.priority = priority

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter + 1 == self.iteration:
            self.action()


class Stop(Exception):
    pass


def raise_stop():
    raise Stop


def make_runner(
    work_dir,
    *hooks,
    checkpoint=None,
    train_cfg=None,
    loader=None,
    optim_wrapper=None,
    seed=3,
    signals=('SIGTERM',),
    log_level='WARNING',
    **kwargs,
):
    """A runner with AdamW, two schedules, averaged weights and a loss schedule."""
    Path(work_dir).mkdir(exist_ok=True)
    torch.manual_seed(0)
    validation = dict(
        dataset=RandomData(2), batch_size=1, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False)
    )
    return Runner(
        model=SmallModel(),
        work_dir=str(work_dir),
        train_dataloader={
            'dataset': RandomData(),
            'batch_size': BATCH,
            'num_workers': 0,
            'sampler': dict(type='DefaultSampler', shuffle=True),
            **(loader or {}),
        },
        train_cfg={
            'type': 'mmbirefnet.ResumableTrainLoop',
            'max_epochs': EPOCHS,
            'val_interval': 2,
            **(train_cfg or {}),
        },
        val_dataloader=validation,
        val_cfg=dict(),
        val_evaluator=[Score()],
        optim_wrapper=dict(
            optimizer=dict(type='AdamW', lr=0.01), clip_grad=dict(max_norm=1.0), **(optim_wrapper or {})
        ),
        param_scheduler=[
            dict(type='LinearLR', start_factor=0.1, end=7, by_epoch=False),
            dict(type='MultiStepLR', milestones=[1, 2], gamma=0.5, by_epoch=True),
        ],
        default_hooks=dict(
            checkpoint=dict(
                type='mmbirefnet.AtomicCheckpointHook',
                **(dict(interval=1, by_epoch=False, max_keep_ckpts=2) if checkpoint is None else checkpoint),
            ),
            stop_signal=dict(type='mmbirefnet.StopSignalHook', signals=signals),
            work_dir_lock=dict(type='mmbirefnet.WorkDirLockHook'),
            worker_guard=dict(type='mmbirefnet.WorkerGuardHook'),
            finite=dict(type='mmbirefnet.FiniteHook'),
        ),
        custom_hooks=[
            dict(type='mmbirefnet.LossScheduleHook', last_epochs=2, factors=dict(BCELoss=0.5, IoULoss=2.0)),
            dict(type='EMAHook', momentum=0.1),
            *hooks,
        ],
        randomness=dict(seed=seed),
        experiment_name=f'{Path(work_dir).name}_{random.Random().random()}',
        log_level=log_level,
        **kwargs,
    )


def train(*args, **kwargs):
    runner = make_runner(*args, **kwargs)
    runner.train()
    return runner


def stopped(*args, **kwargs):
    """A training that ended with :class:`Stop`."""
    runner = make_runner(*args, **kwargs)
    try:
        runner.train()
    except Stop:
        return runner
    raise AssertionError('it was not stopped')


def state_of(runner):
    """Everything of a run that is to be equal: a flat dict of tensors and numbers."""
    checkpoint = {}
    (ema,) = (hook for hook in runner.hooks if type(hook).__name__ == 'EMAHook')
    for part, state in dict(
        model=runner.model.state_dict(),
        ema=ema.ema_model.state_dict(),
        optimizer=runner.optim_wrapper.state_dict(),
        schedules=[schedule.state_dict() for schedule in runner.param_schedulers],
        where=(runner.epoch, runner.iter),
        loss_history=runner.message_hub.get_scalar('train/loss').data[0].tolist(),
        lr_history=runner.message_hub.get_scalar('train/lr').data[0].tolist(),
    ).items():
        flatten(part, state, checkpoint)
    return checkpoint


def flatten(name, value, into):
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, (list, tuple)) else None
    if items is None:
        into[name] = value
    else:
        for key, each in items:
            flatten(f'{name}.{key}', each, into)


def assert_same(first, second):
    assert first.keys() == second.keys()
    for name, value in first.items():
        same = torch.equal(value, second[name]) if isinstance(value, torch.Tensor) else value == second[name]
        assert same, f'{name}: {value} and {second[name]}'


def log_of(work_dir) -> str:
    """Text of all logs of a work directory."""
    return '\n'.join(path.read_text() for path in Path(work_dir).glob('*/*.log'))
