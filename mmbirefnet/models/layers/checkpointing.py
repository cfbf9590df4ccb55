"""Gradient checkpointing of modules with BatchNorm."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


@contextmanager
def _running_statistics_kept(module: nn.Module) -> Iterator[None]:
    norms = [norm for norm in module.modules() if isinstance(norm, _BatchNorm) and norm.training]
    kept = [(norm, name, buffer) for norm in norms for name, buffer in norm.named_buffers()]
    # Exchanged, not written back: autograd minds writes to what it has saved.
    for norm, name, buffer in kept:
        setattr(norm, name, buffer.clone())
    try:
        yield
    finally:
        for norm, name, buffer in kept:
            setattr(norm, name, buffer)


# torch.compile does not know context_fn.
@torch.compiler.disable
def checkpoint_module(module: nn.Module, *inputs: Tensor | None) -> tuple[Tensor | None, ...]:
    """``module(*inputs)``, whose activations are not kept but computed again in the backward pass.

    The second time the running statistics of BatchNorms are left alone, so that each batch counts once.
    """
    return checkpoint(
        module, *inputs, use_reentrant=False, context_fn=lambda: (nullcontext(), _running_statistics_kept(module))
    )
