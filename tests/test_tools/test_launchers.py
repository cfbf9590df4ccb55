"""Help texts, and what the Slurm scripts hand to srun."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[2] / 'tools'


@pytest.mark.parametrize('name', ['train', 'test'])
@pytest.mark.soak
def test_help_names_the_options_of_mmsegmentation(name):
    environment = os.environ | {'PYTHONPATH': str(TOOLS.parent)}
    command = [sys.executable, TOOLS / f'{name}.py', '--help']
    output = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    options = '--work-dir --cfg-options --launcher --local_rank'
    options += {'train': ' --resume --amp', 'test': ' --out --show --show-dir --wait-time --tta'}[name]
    assert all(option in output for option in options.split())


@pytest.mark.parametrize('name', ['dist_train', 'dist_test', 'slurm_train', 'slurm_test'])
def test_too_few_arguments_get_the_usage(name):
    done = subprocess.run([TOOLS / f'{name}.sh', 'config.py'], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith('usage: ')
    assert done.stderr.count('\n') == 1


@pytest.mark.parametrize('gpus', [2, 16])
@pytest.mark.parametrize(
    ('script', 'arguments'), [('slurm_train', ['a b.py', '--amp']), ('slurm_test', ['a b.py', 'c.pth', '--out', 'x y'])]
)
def test_slurm_scripts(tmp_path, script, arguments, gpus):
    (tmp_path / 'srun').write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (tmp_path / 'srun').chmod(0o755)
    environment = os.environ | {
        'PATH': f'{tmp_path}:{os.environ["PATH"]}',
        'GPUS': str(gpus),
        'SRUN_ARGS': '--time=1:00 --exclusive',
        'PYTHON': 'python',
    }
    command = [TOOLS / f'{script}.sh', 'gpu', 'job', *arguments]
    words = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.splitlines()
    per_node = min(gpus, 8)
    expected = f'--partition=gpu --job-name=job --gres=gpu:{per_node} --ntasks={gpus} --ntasks-per-node={per_node}'
    assert words[:5] == expected.split()
    assert words[7:9] == ['--time=1:00', '--exclusive']
    tool = str(TOOLS / f'{script.partition("_")[2]}.py')
    positional = len(arguments) - (1 if script == 'slurm_train' else 2)
    assert words[9:] == ['python', '-u', tool, *arguments[:positional], '--launcher', 'slurm', *arguments[positional:]]
