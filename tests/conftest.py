import collections
import functools
import gc
import os
import signal

import cv2
import pytest
from filelock import FileLock
from mmengine.config import utils as config_utils
from mmengine.registry import DefaultScope

# The import of rembg or PyMatting makes numba set the threads of OpenMP, also torch's, by default to one per core.
os.environ.setdefault('NUMBA_NUM_THREADS', os.environ.get('OMP_NUM_THREADS', '1'))
# Without threads of OpenCV, as in mmengine's runner: one of them could hold a lock while a test forks, and the forked
# process would wait for it forever.
cv2.setNumThreads(0)
gc.disable()  # until all is imported, which is never garbage
# A forked process would wait forever for threads of garbage, such as video frames, which only its parent has.
os.register_at_fork(after_in_child=gc.freeze)
# For each config with a base in another package, mmengine reads all metafiles of that package: half a second.
config_utils.load = functools.cache(config_utils.load)


@pytest.hookimpl(tryfirst=True)  # before -m selects
def pytest_collection_modifyitems(items):
    """Let the first cases of a parametrized test that is marked ``soak(keep=N)`` run with the quick tests."""
    seen = collections.Counter()
    for item in items:
        for mark in list(item.iter_markers('soak')):
            function = item.nodeid.partition('[')[0]
            if seen[function] < mark.kwargs.get('keep', 0):
                item.own_markers.remove(mark)
            seen[function] += 1


def pytest_collection_finish():
    """Leave all that was imported out of garbage collections: mmengine asks for one with each data set."""
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True, scope='module')
def mmseg_scope():
    """Configs have mmseg's scope, as its own tools set it."""
    with DefaultScope.overwrite_default_scope('mmseg'):
        yield


@pytest.fixture(autouse=True)
def sigterm_handler():
    """A training that raises ends its process as a rule, so it leaves the handler of SIGTERM in place."""
    handler = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, handler)


@pytest.fixture
def no_fsync(monkeypatch):
    """Do not wait for the disk."""
    monkeypatch.setattr(os, 'fsync', lambda descriptor: None)


@pytest.fixture(scope='session')
def trained_checkpoint(tmp_path_factory):
    """A tiny BiRefNet that works on drawn objects, trained once a test run (about 20 s of one core).

    A pair ``(config, checkpoint)`` of paths, with these names: a config that the tools and ``BiRefNetInferencer`` take,
    whose test pipeline resizes to 96x96, and a ``.pth`` in this project's form. ``make_sample(0, 'DIS-VD', index,
    size)`` of ``mmbirefnet.datasets.preparation.synthetic`` draws images that it has not seen (BGR) with their masks,
    on which its mean IoU is 0.75 or so; single thin ones may fail.
    """
    import pico

    shared = tmp_path_factory.getbasetemp()
    if 'PYTEST_XDIST_WORKER' in os.environ:  # the folder of one of several processes
        shared = shared.parent
    with FileLock(shared / 'pico.lock'):
        return pico.train(shared)
