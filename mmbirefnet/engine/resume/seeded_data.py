"""Training samples whose augmentation depends only on seed, epoch and index, starting at any batch of an epoch."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import BatchSampler, DataLoader, Dataset, Sampler

_KEPT = (
    *('num_workers', 'collate_fn', 'pin_memory', 'timeout', 'worker_init_fn', 'multiprocessing_context', 'generator'),
    *('prefetch_factor', 'persistent_workers', 'pin_memory_device'),
)


class SampleKey(NamedTuple):
    """Seed of a sample: seed, epoch, and index (a number or a tuple that begins with it)."""

    seed: int
    epoch: int
    index: int | tuple


class SeededBatchSampler(Sampler):
    """The batches of another batch sampler as lists of :class:`SampleKey`, starting at the ``start``-th.

    Args:
        batch_sampler: Batch sampler of lists of indices, which depend only on the seed and epoch of its sampler.
    """

    def __init__(self, batch_sampler: BatchSampler) -> None:
        self.batch_sampler = batch_sampler
        self.seed = self.epoch = self.start = 0

    @property
    def sampler(self) -> Sampler:
        """The sampler of indices; mmengine's ``DistSamplerSeedHook`` sets its epoch."""
        return self.batch_sampler.sampler

    @property
    def batch_size(self) -> int:
        """Images per batch."""
        return self.batch_sampler.batch_size

    def go_to(self, seed: int, epoch: int, start: int) -> None:
        """Set where the next iteration starts.

        Args:
            seed: Seed of order and augmentations; the same on all ranks.
            epoch: Epoch, from 0.
            start: Number of batches of this epoch to skip.
        """
        self.seed, self.epoch, self.start = seed, epoch, start
        if hasattr(self.sampler, 'seed'):  # without a configured seed, that of the resumed run is available only now
            self.sampler.seed = seed
        if hasattr(self.sampler, 'set_epoch'):
            self.sampler.set_epoch(epoch)

    def __len__(self) -> int:
        """Number of batches of a whole epoch."""
        return len(self.batch_sampler)

    def __iter__(self) -> Iterator[list[SampleKey]]:
        for batch in islice(self.batch_sampler, self.start, None):
            yield [SampleKey(self.seed, self.epoch, index) for index in batch]


class DatasetWrapper(Dataset):
    """Base class that changes how samples are loaded; all other attributes are those of the wrapped data set.

    Args:
        dataset: Wrapped data set.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __getattr__(self, name: str) -> Any:
        if name == 'dataset':  # while being unpickled
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __len__(self) -> int:
        return len(self.dataset)


class SeededDataset(DatasetWrapper):
    """A data set that seeds all generators with the :class:`SampleKey` of each sample.

    So samples do not depend on the worker, on the number of workers, ranks or images per batch, or on earlier samples.
    The states of the generators are restored.
    """

    def __getitem__(self, key: SampleKey | int) -> Any:
        if not isinstance(key, SampleKey):
            return self.dataset[key]
        number = key.index[0] if isinstance(key.index, tuple) else key.index
        with preserved_generators():
            seed_generators(key.seed, 0, key.epoch, number)
            return self.dataset[key.index]


def with_seeds(loader: DataLoader, dataset: Dataset) -> DataLoader:
    """Copy a loader with a :class:`SeededDataset` of ``dataset`` and a :class:`SeededBatchSampler`.

    Raises:
        ValueError: If the loader has no batch sampler.
    """
    if loader.batch_sampler is None:
        raise ValueError('train_dataloader must load batches of a data set with indices, batch_size is None')
    kept = {name: getattr(loader, name) for name in _KEPT}
    if hasattr(loader, 'in_order'):  # torch >= 2.6
        kept['in_order'] = loader.in_order
    return DataLoader(SeededDataset(dataset), batch_sampler=SeededBatchSampler(loader.batch_sampler), **kept)


def seed_generators(*key: int) -> None:
    """Seed the generators of Python, NumPy and torch (CPU, and CUDA if it is in use) from a tuple of numbers.

    Tuples that differ in one number give independent streams (NumPy's ``SeedSequence``).

    Args:
        *key: Non-negative integers.
    """
    words = np.random.SeedSequence(key).generate_state(4)
    seed = int(words[:2].view(np.uint64)[0])
    random.seed(seed)
    np.random.seed(words)  # noqa: NPY002 (transforms draw from the global generator)
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)


@contextmanager
def preserved_generators() -> Iterator[None]:
    """Restore the state of the CPU generators after the block."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.set_rng_state(states[2])
