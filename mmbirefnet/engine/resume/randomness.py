"""Seed all generators from (seed, epoch, iteration), so that a resumed run draws the same numbers."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def seed_generators(*key: int) -> None:
    """Seed the generators of Python, NumPy and torch (CPU, and CUDA where it is in use) from a tuple of numbers.

    Tuples that differ in one number give unrelated streams (NumPy's ``SeedSequence``).

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
