"""Batches of random image sizes, and images in given shares of classes, sets or folders."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping

import numpy as np
from mmengine.dataset import BaseDataset
from mmengine.dist import get_dist_info, sync_random_seed
from torch.utils.data import BatchSampler, Sampler

from mmbirefnet.registry import DATA_SAMPLERS


@DATA_SAMPLERS.register_module()
class DynamicSizeBatchSampler(BatchSampler):
    """Batches whose images have one size, chosen at random for each batch.

    Batches are lists of ``(index, (width, height))``. The data sets of this project accept such indices, and
    :class:`~mmbirefnet.datasets.ResizeToBatch` resizes to the size, so every image is resized once, in the workers. A
    size depends only on the seed of the sampler, the epoch and the number of the batch. So it is the same on all GPUs
    without communication, for any number of workers, and after resuming. mmengine's wrappers of data sets
    (``ConcatDataset``, …) do not support such indices; join sets with ``sets=[…]``.

    Args:
        sampler: Sampler of the indices; its ``seed``, and its ``epoch`` if it has one, determine the sizes.
        batch_size: Images per batch.
        min_size: Smallest (width, height) in pixels.
        max_size: Largest (width, height) in pixels, included.
        divisor: Widths and heights are its multiples, independent of each other and equally likely.
        drop_last: Drop an incomplete last batch. (``drop_last`` of the data loader must be off.)

    Raises:
        ValueError: If a size is not a multiple of the divisor, or the smallest exceeds the largest.
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
        epoch = getattr(self.sampler, 'epoch', 0)  # mmengine's infinite sampler has no epoch
        for number, indices in enumerate(super().__iter__()):
            size = self.size_of(epoch, number)
            yield [(index, size) for index in indices]


@DATA_SAMPLERS.register_module()
class ShareSampler(Sampler):
    """Shuffled images with a given share of each class, set or folder in every epoch.

    An epoch has as many images as the data set. In its share, each group repeats all of its images in random order, so
    no image occurs twice before all occurred once. Groups without a share are omitted. The order depends only on the
    seed and the epoch. Each of n processes uses every n-th image of the same order.

    Args:
        dataset: Data set of this project.
        shares: Share of each group; positive, with any sum.
        by: Key of the groups: ``'class_name'``, ``'set_name'``, or ``'folder'`` for the subfolders of the folder of
            images, joined by ``/``.
        shuffle: Accepted for mmengine; the order is always random.
        seed: Seed of the order; by default a random one, the same for all processes.

    Raises:
        ValueError: If ``by`` is unknown, a share is not positive, or the data set has no image of a group.
    """

    GROUPINGS = ('class_name', 'set_name', 'folder')

    def __init__(
        self,
        dataset: BaseDataset,
        shares: Mapping[str, float],
        by: str = 'class_name',
        shuffle: bool = True,
        seed: int | None = None,
    ) -> None:
        if by not in self.GROUPINGS:
            raise ValueError(f'ShareSampler: by={by!r}, must be one of {", ".join(self.GROUPINGS)}')
        if not shares or min(shares.values()) <= 0:
            raise ValueError(f'ShareSampler: shares={dict(shares)}, must be positive')
        groups = defaultdict(list)
        for index in range(len(dataset)):
            info = dataset.get_data_info(index)
            name = dataset.stem_of(info['img_path']).rpartition('/')[0] if by == 'folder' else info[by]
            groups[str(name)].append(index)
        if missing := [name for name in shares if name not in groups]:
            raise ValueError(
                f'ShareSampler: no image with {by} {", ".join(missing)}; there are {", ".join(sorted(groups))}'
            )
        self.length = len(dataset)
        self.groups = [np.array(groups[name]) for name in shares]
        ends = np.cumsum([*shares.values()]) / sum(shares.values()) * self.length
        self.counts = np.diff(np.rint(ends).astype(int), prepend=0)
        self.rank, self.world_size = get_dist_info()
        self.seed = sync_random_seed() if seed is None else seed
        self.epoch = 0

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng([self.seed, self.epoch])
        chosen = []
        for group, count in zip(self.groups, self.counts, strict=True):
            rounds = [rng.permutation(group) for _ in range(math.ceil(count / len(group)))]
            chosen.extend(np.concatenate(rounds)[:count] if rounds else ())
        order = rng.permutation(chosen)
        # Repeat the first ones, so that all processes have the same number.
        order = np.resize(order, len(self) * self.world_size)
        return iter(order[self.rank :: self.world_size].tolist())

    def __len__(self) -> int:
        return math.ceil(self.length / self.world_size)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, which determines the order."""
        self.epoch = epoch
