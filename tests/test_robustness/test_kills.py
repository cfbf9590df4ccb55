"""A BiRefNet in training, by the command line and with worker processes, is killed and resumed."""

import os
import signal

import pytest
import torch
from processes import alive, children_of, finish, wait_for
from small_training import assert_same, flatten
from tiny_birefnet import train, write_folder


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('kills')
    write_folder(folder)
    return folder


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


@pytest.mark.soak
def test_terminated_killed_and_resumed_equals_uninterrupted(folder):
    whole = train(folder, 'whole', '--cfg-options', 'train_dataloader.num_workers=1')
    finish(whole)

    run = train(folder, 'run')
    wait_for((folder / 'run/iter_2.pth').exists)
    # As Slurm does it: to all processes, those that load data first.
    for pid in [*children_of(run.pid), run.pid]:
        os.kill(pid, signal.SIGTERM)
    output = finish(run, 128 + signal.SIGTERM)
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

    finish(train(folder, 'run', '--resume'))
    assert_same(saved_state(folder, 'run'), saved_state(folder, 'whole'))
