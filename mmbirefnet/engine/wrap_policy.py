"""Which modules FSDP shards as units of their own."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn


def wrap_by_name(module: nn.Module, recurse: bool, nonwrapped_numel: int, names: Sequence[str]) -> bool:
    """Policy of FSDP that wraps modules by the names of their classes, which a config can write down.

    Args:
        module: A module of the model.
        recurse: Whether FSDP asks if to look inside ``module``, rather than whether to wrap it.
        nonwrapped_numel: Number of its parameters that are in no unit yet.
        names: Class names of the modules to wrap.
    """
    return recurse or type(module).__name__ in names
