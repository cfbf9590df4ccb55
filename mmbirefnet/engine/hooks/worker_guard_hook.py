"""Data loader workers that end with the training, do not hang, and do not run out of shared memory."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable, Iterable, Mapping

from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement
from torch import Tensor
from torch.utils.data import DataLoader

from mmbirefnet.engine.resume.seeded_data import preserved_generators
from mmbirefnet.registry import HOOKS
from mmbirefnet.utils.process_guard import guard_process

SHARED_MEMORY = '/dev/shm'


class _Guarded:
    """A ``worker_init_fn`` that guards the process."""

    def __init__(self, initialize: Callable[[int], None] | None) -> None:
        self.initialize = initialize

    def __call__(self, worker: int) -> None:
        guard_process()
        if self.initialize is not None:
            self.initialize(worker)


@HOOKS.register_module()
class WorkerGuardHook(Hook):
    """Guard the worker processes of all data loaders.

    - They end with their parent, see :func:`~mmbirefnet.utils.process_guard.guard_process`.
    - If no batch arrives within the time limit, an error ends the run, which would otherwise wait forever.
    - Before they start, the size of the prefetched batches is compared with the free shared memory, based on the first
      sample. Workers without shared memory die or hang.

    Args:
        timeout: Seconds to wait for a batch, for loaders without a ``timeout``; 0 for no limit.

    Raises:
        ValueError: If ``timeout`` is negative.
        RuntimeError: If there is too little shared memory, when the run starts.
    """

    priority = 'VERY_HIGH'  # before any hook that iterates a loader

    def __init__(self, timeout: float = 600) -> None:
        if timeout < 0:
            raise ValueError(f'WorkerGuardHook: timeout={timeout}, must be 0 or greater')
        self.timeout = timeout

    def before_train(self, runner: Runner) -> None:
        """Guard the workers of training and validation."""
        self._guard(runner.train_loop, 'train_dataloader')
        if runner.val_loop is not None:
            self._guard(runner.val_loop, 'val_dataloader')

    def before_val(self, runner: Runner) -> None:
        """Guard the workers of validation."""
        self._guard(runner.val_loop, 'val_dataloader')

    def before_test(self, runner: Runner) -> None:
        """Guard the workers of testing."""
        self._guard(runner.test_loop, 'test_dataloader')

    def _guard(self, loop, name: str) -> None:
        loader = loop.dataloader
        if isinstance(loader.worker_init_fn, _Guarded):
            return
        loader.worker_init_fn = _Guarded(loader.worker_init_fn)
        if loader.num_workers:
            loader.timeout = loader.timeout or self.timeout
            _check_shared_memory(loader, name)


def _check_shared_memory(loader: DataLoader, name: str) -> None:
    """Raise ``RuntimeError`` if the prefetched batches do not fit into shared memory."""
    if not os.path.isdir(SHARED_MEMORY):
        return
    try:
        with preserved_generators():
            sample = loader.dataset[0]
    except Exception:  # the worker will raise the same error, or samples need more than an index
        return
    batch = _bytes(sample) * (getattr(loader, 'batch_size', None) or getattr(loader.batch_sampler, 'batch_size', 1))
    ahead, free = loader.num_workers * loader.prefetch_factor, shutil.disk_usage(SHARED_MEMORY).free
    if batch * ahead > free:
        fitting = math.floor(free / batch / loader.prefetch_factor)
        raise RuntimeError(
            f'{SHARED_MEMORY} has {free / 2**20:.1f} MiB free; {name} with num_workers={loader.num_workers} loads '
            f'{ahead} batches of {batch / 2**20:.1f} MiB ahead. Fix: {name}.num_workers={fitting}'
            + (f' {name}.persistent_workers=False' if not fitting else '')
            + ', a smaller batch_size, or more shared memory (docker run --shm-size)'
        )


def _bytes(sample: object) -> int:
    """Bytes of all tensors in a sample."""
    if isinstance(sample, Tensor):
        return sample.nbytes
    if isinstance(sample, BaseDataElement):
        return _bytes(sample.values())
    if isinstance(sample, Mapping):
        return _bytes(sample.values())
    return sum(map(_bytes, sample)) if isinstance(sample, Iterable) and not isinstance(sample, (str, bytes)) else 0
