"""Policy that selects the modules which FSDP shards separately."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn


def wrap_by_name(module: nn.Module, recurse: bool, nonwrapped_numel: int, names: Sequence[str]) -> bool:
    """Policy of FSDP that wraps modules by the names of their classes, for use in configs.

    Args:
        module: A module of the model.
        recurse: If true, return whether to descend into ``module``; otherwise whether to wrap it.
        nonwrapped_numel: Number of its parameters that are not wrapped yet.
        names: Class names of the modules to wrap.
    """
    return recurse or type(module).__name__ in names
