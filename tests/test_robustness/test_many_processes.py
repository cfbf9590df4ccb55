"""Several ranks: one that dies, a signal to one, a second run in the same folder, scores that stay the same."""

import json
import os
import re
import signal
import subprocess
import sys

import pytest
import torch
from processes import ROOT, finish, free_port, start, wait_for
from tiny_birefnet import ENVIRONMENT, train, write_folder

# Two epochs of two iterations on two ranks; rank 1 fails in the second one, as it is told.
FAILURE = """
train_dataloader.update(num_workers=1)
train_cfg = dict(max_epochs=2, val_interval=9)
custom_imports = dict(imports=['failing_hook'])
custom_hooks.append(dict(type='FailingHook'))
"""
HOOK = """
import os, signal
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@HOOKS.register_module()
class FailingHook(Hook):
    priority = 'HIGH'

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        how = os.environ.get('FAILURE')
        if how and get_rank() == 1 and runner.iter == 1:
            if how == 'raise':
                raise RuntimeError('the disk of rank 1 is on fire')
            os.kill(os.getpid(), signal.Signals[how])
"""
MINUTE = 60


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('ranks')
    write_folder(folder, FAILURE, **{'DIS-TR': 8, 'DIS-VD': 7})
    (folder / 'failing_hook.py').write_text(HOOK)
    return folder


def start_ranks(folder, number, script, *arguments, **environment):
    """Start the processes that torchrun would, with nobody to watch them."""
    common = ENVIRONMENT | dict(MASTER_ADDR='127.0.0.1', MASTER_PORT=free_port(), WORLD_SIZE=str(number), **environment)
    launcher = ['--launcher', 'pytorch'] if number > 1 else []
    ranks = []
    for rank in range(number):
        (folder / f'rank{rank}').mkdir(exist_ok=True)
        each = common | dict(RANK=str(rank), LOCAL_RANK=str(rank), PYTHONPATH=str(folder))
        ranks.append(start(folder, script, *arguments, *launcher, output=f'rank{rank}/output.txt', **each))
    return ranks


@pytest.mark.soak
@pytest.mark.parametrize('how', ['raise', 'SIGKILL'])
def test_a_rank_that_dies_ends_the_others(folder, how):
    other, failing = start_ranks(folder, 2, 'tools/train.py', 'tiny.py', '--work-dir', how, FAILURE=how)
    failing.join()
    assert failing.exitcode == (-signal.SIGKILL if how == 'SIGKILL' else 1)
    other.join(MINUTE)
    assert other.exitcode not in (0, None)
    message = 'on fire' if how == 'raise' else 'Connection'
    assert message in (folder / f'rank{how == "raise":d}/output.txt').read_text()


@pytest.mark.soak
def test_the_launcher_names_rank_and_reason(folder):
    environment = os.environ | ENVIRONMENT | dict(PORT=free_port(), PYTHON=sys.executable, FAILURE='raise')
    environment['PYTHONPATH'] = f'{folder}:{ROOT}'
    command = [ROOT / 'tools/dist_train.sh', 'tiny.py', '2', '--work-dir', 'launched']
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=2 * MINUTE)
    assert done.returncode != 0
    assert re.search(r'Root Cause.*?rank +: 1 .*?the disk of rank 1 is on fire', done.stderr, re.DOTALL)


@pytest.mark.soak
def test_a_signal_to_one_rank_stops_all_after_the_same_iteration(folder):
    arguments = ['tools/train.py', 'tiny.py', '--work-dir']
    for rank in start_ranks(folder, 2, *arguments, 'whole'):
        finish(rank)
    for rank in start_ranks(folder, 2, *arguments, 'stopped', FAILURE='SIGTERM'):
        finish(rank, 128 + signal.SIGTERM)
    assert torch.load(folder / 'stopped/interrupted.pth')['meta']['iter'] == 2
    for rank in start_ranks(folder, 2, *arguments, 'stopped', '--resume'):
        finish(rank)
    whole, stopped = (torch.load(folder / name / 'iter_4.pth')['state_dict'] for name in ('whole', 'stopped'))
    assert all(torch.equal(value, stopped[name]) for name, value in whole.items())


@pytest.mark.soak
def test_a_second_run_in_the_folder_is_refused(folder):
    first = train(folder, 'shared', '--cfg-options', 'train_cfg.max_epochs=1000')
    wait_for((folder / 'shared/iter_2.pth').exists)
    output = finish(train(folder, 'shared'), 1)
    message = f'RuntimeError: another training runs in {folder}/shared (process {first.pid} on '
    assert message in output
    assert first.is_alive()
    first.kill()
    first.join()
    # The lock has gone with its owner; two ranks are one run.
    for rank in start_ranks(folder, 2, 'tools/train.py', 'tiny.py', '--work-dir', 'shared'):
        finish(rank)


@pytest.mark.soak
def test_scores_are_the_same_to_the_last_digit(folder):
    finish(train(folder, 'trained', '--cfg-options', 'train_cfg.max_epochs=1', 'train_cfg.val_interval=9'))
    scores = []
    for number in (1, 2, 3):  # of 7 images
        name = f'test{number}'
        arguments = ['tiny.py', 'trained/iter_4.pth', '--work-dir', name]
        for rank in start_ranks(folder, number, 'tools/test.py', *arguments):
            finish(rank)
        (path,) = (folder / name).glob('*/*.json')
        scores.append({key: value for key, value in json.loads(path.read_text()).items() if 'time' not in key})
    assert len(scores[0]) == 14
    assert scores[0] == scores[1] == scores[2]
