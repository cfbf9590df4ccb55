"""tools/train.py in this process."""

from pathlib import Path
from uuid import uuid4

import mmengine.device
import pytest
import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook

from mmbirefnet.engine import BFloat16OptimWrapper, launch


@pytest.mark.soak
def test_data_root_option_reaches_the_data_sets(tool, tiny_config, tiny_data):
    runner = tool('train', tiny_config, '--cfg-options', f'data_root={tiny_data}', 'train_dataloader.batch_size=2')
    assert runner.cfg.test_dataloader.dataset.data_root == str(tiny_data)
    assert (runner.iter, runner.epoch) == (2, 1)
    assert runner.work_dir == str(Path('work_dirs/tiny').absolute())


@pytest.mark.soak
def test_resume_goes_on(tool, tiny_config, tiny_data, tmp_path):
    options = ['--work-dir', tmp_path / 'run', '--cfg-options', f'data_root={tiny_data}']
    # By default, mmengine names a run after its config and the second, and runs of one name share their history.
    tool('train', tiny_config, *options, f'experiment_name={uuid4().hex}')
    runner = tool(
        'train', tiny_config, '--resume', *options, 'train_cfg.max_epochs=2', f'experiment_name={uuid4().hex}'
    )
    assert (runner.iter, runner.epoch) == (8, 2)
    assert runner.message_hub.get_scalar('train/loss').data[1].sum() == 8  # four of them came with the checkpoint


def test_amp_trains_in_bfloat16(tool, tiny_config, tiny_data):
    seen = set()

    def note(module, inputs, output):
        if module.training and isinstance(module, nn.Conv2d):
            seen.add(output.dtype)

    with register_module_forward_hook(note):
        runner = tool('train', tiny_config, '--amp', '--cfg-options', f'data_root={tiny_data}')
    assert type(runner.optim_wrapper) is BFloat16OptimWrapper
    assert seen == {torch.bfloat16}
    assert {parameter.dtype for parameter in runner.model.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['--amp', '--cfg-options', 'optim_wrapper.type=ApexOptimWrapper'], 'the config has ApexOptimWrapper'),
        (['--cfg-options', 'optim_wrapper.type=AmpOptimWrapper'], 'mmbirefnet.BFloat16OptimWrapper'),
        (['--launcher', 'slurm'], 'tools/dist_train.sh'),
    ],
)
def test_refuses_on_a_cpu(tool, tiny_config, monkeypatch, options, message):
    monkeypatch.setattr(mmengine.device, 'get_device', lambda: 'cpu')
    monkeypatch.setattr(launch, 'get_device', lambda: 'cpu')
    with pytest.raises(SystemExit, match=message):
        tool('train', tiny_config, *options)
