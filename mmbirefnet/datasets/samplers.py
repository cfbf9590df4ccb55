"""Batches of changing image size."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch.utils.data import BatchSampler, Sampler

from mmbirefnet.registry import DATA_SAMPLERS


@DATA_SAMPLERS.register_module()
class DynamicSizeBatchSampler(BatchSampler):
    """Batches whose images have one size, chosen at random for each batch.

    The size travels with the indices: batches are lists of ``(index, (width, height))``, which the data sets of this
    project take and :class:`~mmbirefnet.datasets.ResizeToBatch` resizes to, so that every image is resized once, in
    the loading processes. A size is a function of the sampler's seed, the epoch and the batch's number alone. So it is
    the same on all GPUs without communication, for any number of workers, and after resuming. mmengine's
    wrappers of data sets (``ConcatDataset``, …) do not know such indices; join sets by ``sets=[…]``.

    Args:
        sampler: Gives the indices; its ``seed``, and ``epoch`` if it has one, decide the sizes.
        batch_size: Images per batch.
        min_size: Smallest (width, height).
        max_size: Largest (width, height), included.
        divisor: Widths and heights are its multiples, each as likely as the others, and independent.
        drop_last: Leave out a last batch that is not full. (The data loader's own option must be off.)

    Raises:
        ValueError: If sizes are no multiples of the divisor, or the smallest exceeds the largest.
    """

    def __init__(
        self,
        sampler: Sampler[int],
        batch_size: int,
        min_size: tuple[int, int] = (256, 256),
        max_size: tuple[int, int] = (2304, 2304),
        divisor: int = 32,
        drop_last: bool = False,
    ) -> None:
        super().__init__(sampler, batch_size, drop_last)
        for low, high in zip(min_size, max_size, strict=True):
            if low % divisor or high % divisor or not 0 < low <= high:
                raise ValueError(
                    f'DynamicSizeBatchSampler: min_size={tuple(min_size)} and max_size={tuple(max_size)} are (width, '
                    f'height), must be multiples of {divisor}, and the smallest comes first'
                )
        self.min_size = tuple(min_size)
        self.max_size = tuple(max_size)
        self.divisor = divisor

    def size_of(self, epoch: int, batch: int) -> tuple[int, int]:
        """(width, height) of a batch by its epoch and its number in it, both from 0."""
        rng = np.random.default_rng([self.sampler.seed, epoch, batch])
        low, high = (np.array(size) // self.divisor for size in (self.min_size, self.max_size))
        width, height = (rng.integers(low, high, endpoint=True) * self.divisor).tolist()
        return width, height

    def __iter__(self) -> Iterator[list[tuple[int, tuple[int, int]]]]:
        epoch = getattr(self.sampler, 'epoch', 0)  # mmengine's infinite sampler has none
        for number, indices in enumerate(super().__iter__()):
            size = self.size_of(epoch, number)
            yield [(index, size) for index in indices]
