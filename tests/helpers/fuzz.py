"""How many cases the fuzz tests try, and of which seed.

``MMBIREFNET_FUZZ_CASES`` is the number of cases of each test in ``test_fuzz_structure.py``, by default ``DEFAULT``, and
``MMBIREFNET_FUZZ_SEED`` the seed, by default 0. A case depends on the seed and its index alone, so that a failure is
repeated with the numbers that its message names.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np

DEFAULT = 60
CASES = int(os.environ.get('MMBIREFNET_FUZZ_CASES', DEFAULT))
SEED = int(os.environ.get('MMBIREFNET_FUZZ_SEED', 0))


def cases(share: float = 1) -> Iterator[tuple[str, np.random.Generator]]:
    """Name and random generator of each case.

    Args:
        share: Of ``CASES``, for tests whose cases are slow.
    """
    for index in range(max(1, round(CASES * share))):
        yield f'seed {SEED}, case {index}', np.random.default_rng((SEED, index))


def one_of(rng: np.random.Generator, items):
    """An element of a sequence, as it is."""
    return items[int(rng.integers(len(items)))]
