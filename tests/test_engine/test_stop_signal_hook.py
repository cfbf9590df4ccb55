"""Stopping by a signal: what is saved, when, and what the exit status says."""

import os
import signal

import pytest
import torch
from mmengine.hooks import Hook
from small_training import EPOCHS, ITERATIONS, Interrupt, assert_same, make_runner, state_of, train

PER_EPOCH = ITERATIONS // EPOCHS
RARELY = dict(interval=100, by_epoch=True)


pytestmark = pytest.mark.usefixtures('no_fsync')


def terminate(number=signal.SIGTERM):
    os.kill(os.getpid(), number)


def status_of(work_dir, *hooks, **kwargs):
    runner = make_runner(work_dir, *hooks, checkpoint=RARELY, **kwargs)
    with pytest.raises(SystemExit) as error:
        runner.train()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    return runner, error.value.code


@pytest.mark.parametrize('iteration', [1, 4, PER_EPOCH, ITERATIONS])
def test_saves_the_iteration_and_ends_with_143(tmp_path, iteration):
    whole = train(tmp_path / 'whole', checkpoint=RARELY)
    first, status = status_of(tmp_path / 'run', Interrupt(iteration, terminate, 'NORMAL'))
    assert status == 143
    assert len(first.model.seen) == iteration
    path = tmp_path / 'run/interrupted.pth'
    assert (tmp_path / 'run/last_checkpoint').read_text() == str(path)
    second = train(tmp_path / 'run', checkpoint=RARELY, resume=True)
    assert first.model.seen + second.model.seen == whole.model.seen
    assert_same(state_of(second), state_of(whole))
    assert not path.exists()  # the last epoch's checkpoint has taken its place


class TerminateInValidation(Hook):
    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        terminate()


def test_during_validation(tmp_path):
    """The averaged parameters are in the model's place then."""
    whole = train(tmp_path / 'whole')
    first, status = status_of(tmp_path / 'run', TerminateInValidation())
    assert status == 143
    assert len(first.model.seen) == 2 * PER_EPOCH
    second = train(tmp_path / 'run', resume=True)
    assert first.model.seen + second.model.seen == whole.model.seen
    assert_same(state_of(second), state_of(whole))
    assert len(second.message_hub.get_scalar('val/score').data[0]) == 2


def test_configured_signals_stop_the_run(tmp_path):
    interrupt = Interrupt(2, lambda: terminate(signal.SIGUSR1), 'NORMAL')
    _, status = status_of(tmp_path / 'run', interrupt, signals=['SIGTERM', 'SIGUSR1'])
    assert status == 128 + signal.SIGUSR1
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL
    assert torch.load(tmp_path / 'run/interrupted.pth')['meta']['iter'] == 2


def test_a_training_that_ends_listens_no_more(tmp_path):
    train(tmp_path / 'run', checkpoint=RARELY)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
