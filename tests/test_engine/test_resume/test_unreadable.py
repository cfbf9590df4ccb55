"""Damaged files met in training."""

import os
import re

import pytest
from small_training import EPOCHS, ITERATIONS, LENGTH, Interrupt, RandomData, log_of, raise_stop, stopped, train

from mmbirefnet.engine.resume.unreadable import SkipUnreadable
from mmbirefnet.registry import LOOPS

SKIP = dict(unreadable='skip')


class Damaged(RandomData):
    """Images 3 and 7 are."""

    def __init__(self, length=LENGTH):
        super().__init__(length, damaged=(3, 7))


@pytest.fixture
def damaged(monkeypatch):
    monkeypatch.setattr(os, 'fsync', lambda descriptor: None)
    monkeypatch.setattr('small_training.RandomData', Damaged)


@pytest.mark.parametrize('workers', [0, 1])
def test_stops_and_names_the_file(tmp_path, damaged, workers):
    with pytest.raises(OSError, match=r'im/[37].png: truncated'):
        train(tmp_path, loader=dict(num_workers=workers))


@pytest.mark.parametrize('workers', [0, 2])
def test_skips_and_counts(tmp_path, damaged, workers):
    runner = train(tmp_path, train_cfg=SKIP, loader=dict(num_workers=workers))
    assert len(runner.model.seen) == ITERATIONS
    log = log_of(tmp_path)
    lines = [line for line in log.splitlines() if 'replaced by another image' in line]
    assert len(lines) >= 2 * EPOCHS  # once an epoch each, and when they were drawn in another's place
    for name in ('im/3.png', 'im/7.png'):
        assert sum(f'OSError: {name}: truncated' in line for line in lines) >= EPOCHS
    counts = re.findall(r'Epoch \d: (\d+) unreadable images replaced', log)
    assert len(counts) == EPOCHS
    assert sum(map(int, counts)) == len(lines)


def test_replacements_are_the_same_after_a_resumption(tmp_path, damaged):
    whole = train(tmp_path / 'whole', train_cfg=SKIP)
    first = stopped(tmp_path / 'run', Interrupt(7, raise_stop), train_cfg=SKIP, loader=dict(num_workers=1))
    second = train(tmp_path / 'run', train_cfg=SKIP, resume=True)
    assert first.model.seen + second.model.seen == whole.model.seen


def test_files_that_cannot_be_read_at_all_end_the_training():
    data = SkipUnreadable(RandomData(4, damaged=range(4)))
    with pytest.raises(RuntimeError, match=r'10 samples in a row cannot be read: OSError: im/2.png: truncated'):
        data[2]


def test_replacement_has_the_size_of_its_batch():
    class Sized(RandomData):
        def __getitem__(self, index):
            number, size = index
            return dict(super().__getitem__(number), size=size)

    sample = SkipUnreadable(Sized(4, damaged=[2]))[2, (32, 64)]
    assert sample['size'] == (32, 64)
    assert sample['data_samples'].img_path != 'im/2.png'


def test_unknown_actions_are_rejected():
    with pytest.raises(ValueError, match="'stop' or 'skip', got 'ignore'"):
        LOOPS.build(
            dict(type='mmbirefnet.ResumableTrainLoop', runner=None, dataloader=None, max_epochs=1, unreadable='ignore')
        )
