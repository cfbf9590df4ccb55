"""Precision of float32 matrix products by the config."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from small_training import Stop, make_runner

from mmbirefnet.engine import MatmulPrecisionHook
from mmbirefnet.engine.launch import runner_of
from mmbirefnet.registry import HOOKS

CONFIGS = Path(__file__).parents[2] / 'configs'


@pytest.mark.parametrize(
    ('config', 'precision'),
    [
        ('birefnet/birefnet_swin-l_8xb4-500e_dis5k-1024x1024.py', 'highest'),
        ('birefnet/birefnet_swin-l_8xb8-500e_dis5k-1024x1024.py', 'high'),
    ],
)
def test_precision_is_set_during_a_run(config, precision, tmp_path):
    seen = []

    class Look(MatmulPrecisionHook):
        def before_run(self, runner):
            """Leave the precision alone."""

        after_run = before_run

        def before_train_iter(self, runner, batch_idx, data_batch=None):
            seen.append(torch.get_float32_matmul_precision())

    hook = HOOKS.build(Config.fromfile(CONFIGS / config).default_hooks.matmul_precision)
    torch.set_float32_matmul_precision('medium')
    try:
        make_runner(tmp_path / 'work', hook, Look(), train_cfg=dict(max_epochs=1)).train()
        assert set(seen) == {precision}
        assert torch.get_float32_matmul_precision() == 'medium'
    finally:
        torch.set_float32_matmul_precision('highest')


def test_precision_is_restored_after_an_error(tmp_path, monkeypatch):
    hook = MatmulPrecisionHook('high')

    class Fail(MatmulPrecisionHook):
        def before_run(self, runner):
            assert torch.get_float32_matmul_precision() == 'high'
            raise Stop

    runner = make_runner(tmp_path / 'work', hook, Fail())
    monkeypatch.setattr(Runner, 'from_cfg', lambda cfg: runner)
    torch.set_float32_matmul_precision('medium')
    try:
        with pytest.raises(Stop), runner_of(Config(dict(launcher='none'))) as built:
            built.train()
        assert torch.get_float32_matmul_precision() == 'medium'
    finally:
        torch.set_float32_matmul_precision('highest')


def test_refuses_an_unknown_precision():
    with pytest.raises(ValueError, match=r"one of \('highest', 'high', 'medium'\), got 'tf32'"):
        MatmulPrecisionHook('tf32')
