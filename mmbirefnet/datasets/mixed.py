"""New data mixed with old data, so that fine-tuning keeps the quality on old data."""

# ruff: noqa: NPY002 (mmengine seeds NumPy's global random state in every worker)

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from mmengine.dataset import BaseDataset, ConcatDataset

from mmbirefnet.registry import DATASETS


@DATASETS.register_module()
class MixedDataset(ConcatDataset):
    """Several data sets in given shares: rehearsal against catastrophic forgetting (Robins, 1995).

    An epoch has every item of the first data set once, and random items of the others according to their shares,
    different ones in each epoch.

    Args:
        datasets: Configs or data sets; the first is the new data.
        shares: Share of each in an epoch; positive, with a sum of 1.
        lazy_init: Whether to read the data sets only when they are first used.
        ignore_keys: Entries of their meta information that may differ.

    Raises:
        ValueError: If the number of shares is not that of the data sets, or their sum is not 1.
    """

    def __init__(
        self,
        datasets: Sequence[BaseDataset | dict],
        shares: Sequence[float],
        lazy_init: bool = False,
        ignore_keys: Sequence[str] = ('sets',),
    ) -> None:
        if not shares or len(shares) != len(datasets) or min(shares) <= 0 or not np.isclose(sum(shares), 1):
            raise ValueError(
                f'MixedDataset: shares={list(shares)}, must be {len(datasets)} positive numbers, one for each data '
                'set, whose sum is 1'
            )
        self.shares = tuple(shares)
        super().__init__(datasets, lazy_init, list(ignore_keys))

    def full_init(self) -> None:
        """Initialize the data sets, and compute the number of items of each in an epoch."""
        super().full_init()
        first = len(self.datasets[0])
        others = [max(round(first * share / self.shares[0]), 1) for share in self.shares[1:]]
        self.ends = np.cumsum([first, *others])

    def __len__(self) -> int:
        self.full_init()
        return int(self.ends[-1])

    def _get_ori_dataset_idx(self, idx: int) -> tuple[int, int]:
        """Data set and item of an index; items of all but the first data set are random."""
        which = int(np.searchsorted(self.ends, idx, side='right'))
        return which, idx if which == 0 else int(np.random.randint(len(self.datasets[which])))
