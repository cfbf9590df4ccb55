"""Losses and gradients that are not finite: what is said, what is stopped, skipped and dumped."""

import math
from functools import partial

import pytest
import torch
from mmengine.model import BaseModel
from mmengine.optim.optimizer import amp_optimizer_wrapper
from mmengine.runner import Runner
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from small_training import log_of
from torch import nn
from torch.utils.data import Dataset

from mmbirefnet.registry import HOOKS

COUNT = 8


class Numbers(Dataset):
    """Eight images; the third one breaks the model."""

    metainfo = {}

    def __len__(self):
        return COUNT

    def __getitem__(self, index):
        sample = SegDataSample(metainfo=dict(img_path=f'im/{index}.png'))
        sample.gt_sem_seg = PixelData(data=torch.ones(1, 2, 2))
        return dict(inputs=torch.full((1, 2, 2), float(index)), data_samples=sample)


class Breaking(BaseModel):
    """One weight; loss or gradient of the batch with the number 2 is what is asked for."""

    def __init__(self, loss=1.0, gradient=1.0, at=2.0):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.unused = nn.Parameter(torch.ones(()))
        self.register_buffer('broken', torch.tensor([loss, gradient]), persistent=False)
        self.at = at
        self.weights = []

    def forward(self, inputs, data_samples, mode):
        self.weights.append(self.weight.item())
        batch = torch.stack(inputs)
        loss, gradient = self.broken if (batch == self.at).any() else (1.0, 1.0)
        weight = self.weight * 1
        if weight.requires_grad:
            weight.register_hook(lambda value: value * gradient)
        return dict(loss_good=weight**2, loss_bad=weight * 0 + loss, acc=torch.tensor(math.nan))


def make_runner(work_dir, model, batch_size=1, optim_wrapper=None, **options):
    return Runner(
        model=model,
        work_dir=str(work_dir),
        train_dataloader=dict(
            dataset=Numbers(), batch_size=batch_size, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False)
        ),
        train_cfg=dict(by_epoch=True, max_epochs=1),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9), **(optim_wrapper or {})),
        default_hooks=dict(checkpoint=None, finite=dict(type='mmbirefnet.FiniteHook', **options)),
        experiment_name=str(work_dir),
        log_level='WARNING',
    )


@pytest.mark.parametrize(
    ('broken', 'message'),
    [
        (dict(loss=math.nan), 'losses loss=nan, loss_bad=nan for im/2.png; gradients finite'),
        (dict(loss=-math.inf), 'losses loss=-inf, loss_bad=-inf for im/2.png; gradients finite'),
        (dict(gradient=math.inf), 'losses finite; gradients not finite: weight; batch im/2.png'),
        (dict(gradient=math.nan), 'losses finite; gradients not finite: weight; batch im/2.png'),
    ],
)
def test_stops_before_the_step(tmp_path, broken, message):
    runner = make_runner(tmp_path, Breaking(**broken))
    with pytest.raises(FloatingPointError) as error:
        runner.train()
    assert str(error.value) == f'iteration 3, epoch 1: step not taken, {message}'
    # p - 0.1 (2 p), then with momentum: 1 -> 0.8 -> 0.46
    assert runner.model.weight.item() == pytest.approx(0.46)
    assert not list(tmp_path.glob('nonfinite/*'))


@pytest.mark.parametrize('broken', [dict(loss=math.nan), dict(gradient=math.nan)])
def test_skips_and_counts(tmp_path, broken):
    runner = make_runner(tmp_path, Breaking(**broken), action='skip')
    runner.train()
    weights = runner.model.weights
    assert len(weights) == COUNT
    assert weights[2] == weights[3] != weights[4]
    assert runner.model.weight.isfinite()
    assert '(1 skipped so far)' in log_of(tmp_path)
    assert runner.message_hub.get_info('skipped_steps') == 1
    # As if the batch had not been there.
    without = make_runner(tmp_path / 'without', Breaking())
    without.train()
    assert weights[:3] + weights[4:] == without.model.weights[:-1]


def test_stops_after_too_many_skips(tmp_path):
    runner = make_runner(tmp_path, Breaking(loss=math.nan, at=-0.0), action='skip', max_skips=3)
    runner.model.forward = partial(broken_from_now_on, runner.model)
    with pytest.raises(FloatingPointError, match='3 steps in a row were not finite; the last: .*im/2.png'):
        runner.train()


def broken_from_now_on(model, inputs, data_samples, mode):
    return dict(loss=model.weight * math.nan)


def test_dumps_the_batch(tmp_path):
    make_runner(tmp_path, Breaking(loss=math.inf), batch_size=2, action='skip', dump=True).train()
    (path,) = tmp_path.glob('nonfinite/*')
    assert path.name == 'iter_2_rank0.pth'
    dump = torch.load(path, weights_only=True)
    assert dump['files'] == ['im/2.png', 'im/3.png']
    assert torch.equal(torch.stack(dump['inputs'])[:, 0, 0, 0], torch.tensor([2.0, 3.0]))
    assert torch.equal(torch.stack(dump['masks']), torch.ones(2, 1, 2, 2))
    assert dump['losses']['loss_bad'] == math.inf


def test_accumulated_batches_are_skipped_together(tmp_path):
    wrapper = dict(accumulative_counts=2)
    runner = make_runner(tmp_path, Breaking(loss=math.nan), optim_wrapper=wrapper, action='skip')
    runner.train()
    assert 'loss_bad=nan for im/2.png' in log_of(tmp_path)
    weights = runner.model.weights
    assert weights[2] == weights[4] != weights[6]
    assert weights[0] != weights[2]


@pytest.fixture
def loss_scaling(monkeypatch):
    """mmengine's AmpOptimWrapper on the CPU, with a scale under which the first gradient, 2, overflows."""
    if not hasattr(torch.amp, 'GradScaler'):
        pytest.skip('torch < 2.3 scales losses on GPUs alone')
    monkeypatch.setattr(amp_optimizer_wrapper, 'is_cuda_available', lambda: True)
    monkeypatch.setattr(amp_optimizer_wrapper, 'GradScaler', partial(torch.amp.GradScaler, 'cpu'))
    return dict(type='AmpOptimWrapper', dtype='bfloat16', loss_scale=dict(init_scale=2.0**127 * 1.9))


@pytest.mark.parametrize('clip', [{}, dict(clip_grad=dict(max_norm=1.0))])
def test_overflow_under_loss_scaling_does_not_stop_training(tmp_path, loss_scaling, clip):
    runner = make_runner(tmp_path, Breaking(), optim_wrapper=loss_scaling | clip)
    runner.train()
    weights = runner.model.weights
    assert weights[0] == weights[1] != weights[2]
    assert runner.message_hub.get_info('skipped_steps') is None


def test_losses_are_watched_under_loss_scaling(tmp_path, loss_scaling):
    loss_scaling['loss_scale'] = 8.0
    with pytest.raises(FloatingPointError, match='loss_bad=nan for im/2.png'):
        make_runner(tmp_path, Breaking(loss=math.nan), optim_wrapper=loss_scaling).train()


def test_gradients_that_overflow_at_any_loss_scale_stop_training(tmp_path, loss_scaling):
    loss_scaling['loss_scale'] = dict(init_scale=2.0**-14)
    runner = make_runner(tmp_path, Breaking(), optim_wrapper=loss_scaling)
    runner.model.forward = lambda inputs, data_samples, mode: dict(loss=(runner.model.weight - 1).sqrt())
    with pytest.raises(FloatingPointError, match='iteration 3.*loss scale 7.6'):
        runner.train()


def test_leaves_the_optimizer_as_it_was(tmp_path):
    runner = make_runner(tmp_path, Breaking())
    runner.train()
    assert 'watched' not in runner.optim_wrapper.step.__qualname__
    assert 'watched' not in runner.optim_wrapper.update_params.__qualname__


def test_unknown_actions_are_rejected():
    with pytest.raises(ValueError, match="'stop' or 'skip', got 'ignore'"):
        HOOKS.build(dict(type='mmbirefnet.FiniteHook', action='ignore'))
