"""mmengine's checkpoints under torch's weights-only guard."""

import os
import pickle

import numpy as np
import pytest
import torch
from mmengine.evaluator import BaseMetric
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn

from mmbirefnet.fileio.restricted_unpickling import history_statistic, load_guarded


class Line(BaseModel):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(2, 1)

    def forward(self, inputs, mode='tensor'):
        output = self.fc(torch.stack(inputs))
        return dict(loss=output.mean()) if mode == 'loss' else list(output)


class Score(BaseMetric):
    default_prefix = 'score'

    def process(self, data_batch, data_samples):
        self.results += [float(sample) for sample in data_samples]

    def compute_metrics(self, results):
        return dict(double=np.float64(1.5), single=np.float32(2.5), count=np.int64(len(results)))


def build_runner(work_dir, **options):
    loader = dict(
        batch_size=2,
        num_workers=0,
        dataset=[dict(inputs=torch.tensor([1.0, i])) for i in range(4)],
        sampler=dict(type='DefaultSampler', shuffle=False),
    )
    return Runner(
        model=Line(),
        work_dir=str(work_dir),
        train_dataloader=loader,
        val_dataloader=dict(loader),
        train_cfg=dict(by_epoch=True, max_epochs=2),
        val_cfg=dict(),
        val_evaluator=dict(type=Score),
        optim_wrapper=dict(optimizer=dict(type='AdamW', lr=0.1)),
        param_scheduler=[dict(type='MultiStepLR', milestones=[1]), dict(type='LinearLR', end=2)],
        default_hooks=dict(
            checkpoint=dict(type='CheckpointHook', interval=1, save_best='score/double', rule='greater')
        ),
        default_scope='mmengine',
        log_level='ERROR',
        **options,
    )


@pytest.fixture(scope='module')
def work_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp('run')
    build_runner(folder).train()
    return folder


def test_runner_checkpoint_loads_with_its_history(work_dir):
    assert 'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD' not in os.environ
    checkpoint = load_guarded(work_dir / 'epoch_2.pth')
    assert set(checkpoint) == {'meta', 'state_dict', 'message_hub', 'optimizer', 'param_schedulers'}
    losses = checkpoint['message_hub']['log_scalars']['train/loss']
    assert isinstance(losses, HistoryBuffer)
    assert losses.data[1].sum() == 4
    assert losses.statistics('current') == losses.data[0][-1]
    assert checkpoint['message_hub']['runtime_info']['best_score'] == 1.5


@pytest.mark.skipif(not hasattr(torch.serialization, 'safe_globals'), reason='torch < 2.5 has no declarations')
def test_our_safe_globals_outlast_a_safe_globals_context(work_dir):
    with torch.serialization.safe_globals([HistoryBuffer, np.ndarray, np.dtype, getattr]):
        torch.load(work_dir / 'epoch_1.pth')
    torch.load(work_dir / 'epoch_1.pth')


def test_resume_goes_on_from_the_checkpoint(work_dir, tmp_path):
    resumed = build_runner(tmp_path, load_from=str(work_dir / 'epoch_1.pth'), resume=True)
    resumed.train()
    through = load_guarded(work_dir / 'epoch_2.pth')['state_dict']
    again = load_guarded(tmp_path / 'epoch_2.pth')['state_dict']
    assert resumed.epoch == 2
    for name, value in through.items():
        torch.testing.assert_close(again[name], value, rtol=0, atol=0)


class Evil:
    """Pickles to ``getattr(HistoryBuffer, '__init__')`` or to a call of something harmful."""

    def __init__(self, function, *arguments):
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize(
    'content',
    [
        Evil(getattr, HistoryBuffer, '__init__'),
        Evil(getattr, np.ndarray, 'tofile'),
        Evil(eval, '1 + 1'),
        Evil(os.system, 'true'),
    ],
    ids=['init', 'tofile', 'eval', 'system'],
)
def test_forged_pickles_are_rejected(tmp_path, content):
    torch.save(content, tmp_path / 'forged.pth')
    with pytest.raises(pickle.UnpicklingError):
        load_guarded(tmp_path / 'forged.pth')


@pytest.mark.skipif(torch.__version__ >= '2.6', reason='newer ones need no module in place of pickle')
@pytest.mark.parametrize('legacy', [False, True])
def test_load_guarded_without_torchs_weights_only(tmp_path, legacy):
    """Also files of before torch 1.6, which are no archives; and programs of TorchScript."""
    content = dict(a=torch.randn(3).to(torch.bfloat16), b=nn.Parameter(torch.ones(2)), c=torch.arange(3))
    torch.save(content, tmp_path / 'good.pth', _use_new_zipfile_serialization=not legacy)
    found = load_guarded(tmp_path / 'good.pth')
    assert all(torch.equal(found[key], value) for key, value in content.items())
    torch.save(Evil(os.system, 'true'), tmp_path / 'bad.pth', _use_new_zipfile_serialization=not legacy)
    with pytest.raises(pickle.UnpicklingError, match=r'GLOBAL posix\.system'):
        load_guarded(tmp_path / 'bad.pth')
    torch.jit.script(nn.Linear(1, 1)).save(tmp_path / 'script.pth')
    with pytest.raises(pickle.UnpicklingError, match='TorchScript'):
        load_guarded(tmp_path / 'script.pth')


def test_history_statistic_refuses_all_else():
    assert history_statistic(HistoryBuffer, 'mean') is HistoryBuffer.mean
    for owner, name in ((HistoryBuffer, 'update'), (np.ndarray, 'mean')):
        with pytest.raises(pickle.UnpicklingError, match='only'):
            history_statistic(owner, name)
