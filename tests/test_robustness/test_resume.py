"""A run that was stopped and resumed is the run that never stopped, bit for bit."""

import errno
import os
from pathlib import Path

import pytest
import small_training
import torch
from mmengine.hooks import Hook
from processes import finish, start
from small_training import (
    BATCH,
    EPOCHS,
    ITERATIONS,
    LENGTH,
    Interrupt,
    Stop,
    assert_same,
    log_of,
    make_runner,
    raise_stop,
    state_of,
    stopped,
    train,
)

PER_EPOCH = LENGTH // BATCH
BY_EPOCH = dict(interval=1, by_epoch=True)


pytestmark = pytest.mark.usefixtures('no_fsync')


@pytest.fixture(scope='module')
def uninterrupted(tmp_path_factory):
    runner = train(tmp_path_factory.mktemp('whole') / 'run')
    assert len({digest for digest, *_ in runner.model.seen}) == ITERATIONS
    assert len({weight for _, weight, *_ in runner.model.seen}) == EPOCHS
    return state_of(runner), runner.model.seen


@pytest.mark.parametrize('iteration', range(1, ITERATIONS + 1))
def test_resume_after_any_iteration(uninterrupted, tmp_path, iteration):
    state, seen = uninterrupted
    first = stopped(
        tmp_path / 'run', Interrupt(iteration, raise_stop), checkpoint=dict(interval=iteration, by_epoch=False)
    )
    second = train(tmp_path / 'run', resume=True)
    assert first.model.seen + second.model.seen == seen
    assert_same(state_of(second), state)


def test_resume_twice_with_other_numbers_of_workers(uninterrupted, tmp_path):
    state, seen = uninterrupted
    first = stopped(tmp_path / 'run', Interrupt(3, raise_stop), loader=dict(num_workers=2, persistent_workers=True))
    second = stopped(tmp_path / 'run', Interrupt(8, raise_stop), loader=dict(num_workers=1), resume=True)
    third = train(tmp_path / 'run', resume=True)
    assert first.model.seen + second.model.seen + third.model.seen == seen
    assert_same(state_of(third), state)


def test_checkpoints_of_epochs_repeat_what_was_lost(uninterrupted, tmp_path):
    state, seen = uninterrupted
    first = stopped(tmp_path / 'run', Interrupt(PER_EPOCH + 2, raise_stop), checkpoint=BY_EPOCH)
    second = train(tmp_path / 'run', checkpoint=BY_EPOCH, resume=True)
    assert first.model.seen[:PER_EPOCH] + second.model.seen == seen
    assert first.model.seen[PER_EPOCH:] == seen[PER_EPOCH : PER_EPOCH + 2]
    assert_same(state_of(second), state)


CRASH = """
import os
import small_training

class CrashingData(small_training.RandomData):
    loaded = 0

    def __getitem__(self, index):
        self.loaded += 1
        if self.loaded == 9:  # later than what is loaded ahead of the first iteration
            os._exit(7)
        return super().__getitem__(index)

small_training.RandomData = CrashingData
small_training.train('run', loader=dict(num_workers=1))
"""


@pytest.mark.soak
def test_crash_of_a_worker(uninterrupted, tmp_path):
    state, seen = uninterrupted
    script = tmp_path / 'crash.py'
    script.write_text(CRASH)
    # In a process of its own: torch may tell of a dead worker at any later moment.
    finish(start(tmp_path, script, PYTHONPATH=str(Path(small_training.__file__).parent)), status=1)
    second = train(tmp_path / 'run', resume=True)
    assert 0 < len(second.model.seen) < ITERATIONS
    assert second.model.seen == seen[-len(second.model.seen) :]
    assert_same(state_of(second), state)


def test_full_disk(uninterrupted, tmp_path, monkeypatch):
    state, seen = uninterrupted
    saved = 0

    def sync(descriptor):
        nonlocal saved
        saved += 1
        if saved == 30:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, 'fsync', sync)
        with pytest.raises(OSError, match='No space left on device: the checkpoint .* was not written'):
            train(tmp_path / 'run')
    second = train(tmp_path / 'run', resume=True)
    assert 0 < len(second.model.seen) < ITERATIONS
    assert second.model.seen == seen[-len(second.model.seen) :]
    assert_same(state_of(second), state)


def test_accumulated_gradients(tmp_path):
    options = dict(optim_wrapper=dict(accumulative_counts=3))
    whole = train(tmp_path / 'whole', **options)
    stopped(tmp_path / 'run', Interrupt(7, raise_stop), **options)
    assert_same(state_of(train(tmp_path / 'run', resume=True, **options)), state_of(whole))


def test_random_seed_is_kept_on_resume(tmp_path):
    """Without a configured seed a run draws one, and keeps it."""
    first = stopped(tmp_path / 'run', Interrupt(4, raise_stop), seed=None)
    seed = first.seed
    second = train(tmp_path / 'run', seed=None, resume=True)
    whole = train(tmp_path / 'whole', seed=seed)
    assert first.model.seen + second.model.seen == whole.model.seen


class StopInValidation(Hook):
    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        raise Stop


@pytest.mark.soak
def test_validation_that_was_cut_off_is_made_up_for(tmp_path):
    best = BY_EPOCH | dict(save_best='score', rule='greater')
    whole = train(tmp_path / 'whole', checkpoint=best)
    stopped(tmp_path / 'run', StopInValidation(), checkpoint=best)
    assert not (tmp_path / 'run/best_score_epoch_2.pth').exists()
    second = train(tmp_path / 'run', checkpoint=best, resume=True)
    assert second.model.seen == whole.model.seen[2 * PER_EPOCH :]
    assert (tmp_path / 'run/best_score_epoch_2.pth').exists()
    assert len(second.message_hub.get_scalar('val/score').data[0]) == 2
    # It is not repeated where it was finished.
    third = make_runner(tmp_path / 'run', checkpoint=best, resume=True)
    third.train()
    assert third.model.seen == []
    assert len(third.message_hub.get_scalar('val/score').data[0]) == 2


def test_epochs_of_another_length(tmp_path):
    stopped(tmp_path / 'run', Interrupt(3, raise_stop))
    with pytest.raises(ValueError, match='from batch 3 of an epoch of 5, which now has 10'):
        train(tmp_path / 'run', loader=dict(batch_size=1), resume=True)
    stopped(tmp_path / 'whole_epoch', Interrupt(PER_EPOCH + 1, raise_stop), checkpoint=BY_EPOCH)
    runner = train(tmp_path / 'whole_epoch', loader=dict(batch_size=1), resume=True)
    assert len(runner.model.seen) == (EPOCHS - 1) * LENGTH
    log = log_of(tmp_path / 'whole_epoch')
    assert 'an epoch has 10 iterations now, 5 before' in log


def test_checkpoints_of_mmengines_loop_can_be_resumed(tmp_path):
    options = dict(train_cfg=dict(type='EpochBasedTrainLoop'))
    stopped(tmp_path / 'run', Interrupt(PER_EPOCH + 2, raise_stop), checkpoint=BY_EPOCH, **options)
    assert len(train(tmp_path / 'run', resume=True).model.seen) == (EPOCHS - 1) * PER_EPOCH


@pytest.mark.soak
def test_parameters_to_start_from_are_no_checkpoint_to_resume(uninterrupted, tmp_path):
    """Jobs that are started again by Slurm always say --resume."""
    weights = tmp_path / 'weights.pth'
    torch.save(dict(state_dict=make_runner(tmp_path / 'other').model.state_dict()), weights)
    options = dict(load_from=str(weights), resume=True)
    first = stopped(tmp_path / 'run', Interrupt(4, raise_stop), **options)
    second = train(tmp_path / 'run', **options)
    assert first.model.seen + second.model.seen == uninterrupted[1]
    # A training's checkpoint is resumed from when it is named.
    third = train(tmp_path / 'third', load_from=str(tmp_path / 'run/iter_14.pth'), resume=True)
    assert third.model.seen == uninterrupted[1][14:]
