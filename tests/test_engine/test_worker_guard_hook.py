"""Data loaders that hang, or that shared memory is too small for."""

import shutil
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch.utils.data import DataLoader, Dataset, get_worker_info

from mmbirefnet.engine import WorkerGuardHook, launch


class Samples(Dataset):
    """Of 2 MiB each: an image of 1 MiB, and a mask of as much."""

    def __len__(self):
        return 8

    def __getitem__(self, index):
        np.random.rand()  # noqa: NPY002
        sample = SegDataSample(gt_sem_seg=PixelData(data=torch.zeros(1, 512, 512)))
        return dict(inputs=torch.zeros(1, 1024, 1024, dtype=torch.uint8), data_samples=sample)


class Hanging(Samples):
    def __getitem__(self, index):
        if get_worker_info():
            time.sleep(60)
        return super().__getitem__(index)


def guard(loader, **options):
    loop = SimpleNamespace(dataloader=loader)
    WorkerGuardHook(**options).before_test(SimpleNamespace(test_loop=loop))


@pytest.mark.soak
def test_a_loader_that_hangs_is_an_error():
    loader = DataLoader(Hanging(), num_workers=1)
    guard(loader, timeout=1)
    start = time.monotonic()
    with pytest.raises(RuntimeError, match='DataLoader timed out after 1 seconds'):
        next(iter(loader))
    assert time.monotonic() - start < 30


def test_the_own_limit_of_a_loader_stays():
    loader = DataLoader(Samples(), num_workers=1, timeout=7)
    guard(loader)
    assert loader.timeout == 7
    without_workers = DataLoader(Samples())
    guard(without_workers)
    assert without_workers.timeout == 0
    with pytest.raises(ValueError, match='timeout=-1'):
        WorkerGuardHook(timeout=-1)


@pytest.mark.parametrize(
    ('free', 'fix'), [(11, 'num_workers=0 test_dataloader.persistent_workers=False'), (47, 'num_workers=3,')]
)
def test_shared_memory_is_checked_before_the_work(monkeypatch, free, fix):
    usage = shutil.disk_usage('/')
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: usage._replace(free=free << 20))
    before = np.random.get_state()[1].tolist()  # noqa: NPY002
    with pytest.raises(RuntimeError, match=rf'/dev/shm has {free}.0 MiB free; .* 8 batches of 6.0 MiB') as e:
        guard(DataLoader(Samples(), batch_size=3, num_workers=4, collate_fn=list))
    assert fix in str(e.value)
    assert before == np.random.get_state()[1].tolist()  # noqa: NPY002
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: usage._replace(free=48 << 20))
    guard(DataLoader(Samples(), batch_size=3, num_workers=4, collate_fn=list))


def test_the_tools_say_what_to_do(monkeypatch):
    monkeypatch.setattr(launch.Runner, 'from_cfg', lambda cfg: None)
    problem = 'DataLoader worker (pid 7) is killed by signal: Bus error'
    refused = pytest.raises(RuntimeError, match=r'Bus error.* Fix: set num_workers=0 .*worker_guard\.timeout')
    with refused, launch.runner_of(Config(dict(launcher='none'))):
        raise RuntimeError(problem)
