"""Activation checkpointing of modules with BatchNorm."""

from collections.abc import Callable
from contextlib import nullcontext
from contextvars import ContextVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from mmbirefnet.models.layers.compiling import is_compiling, uncompiled


class _RunningStatisticsKept:
    """Context of a backward pass in which BatchNorms of a module do not update their running statistics."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __enter__(self) -> None:
        norms = [norm for norm in self.module.modules() if isinstance(norm, _BatchNorm) and norm.training]
        self.kept = [(norm, name, buffer) for norm in norms for name, buffer in norm.named_buffers()]
        # Replace the buffers instead of writing into them: autograd rejects in-place changes of saved tensors.
        for norm, name, buffer in self.kept:
            setattr(norm, name, buffer.clone())

    def __exit__(self, *error) -> None:
        for norm, name, buffer in self.kept:
            setattr(norm, name, buffer)


# Whether this thread is inside a checkpointed module.
inside_checkpoint = ContextVar('checkpointed', default=False)


# torch.compile does not support context_fn.
@uncompiled
def checkpoint_module(module: nn.Module, *inputs: Tensor | None) -> tuple[Tensor | None, ...]:
    """Call ``module(*inputs)`` without keeping activations; the backward pass computes them again.

    The second forward pass does not update the running statistics of BatchNorms, so each batch counts once.
    """

    def run(*inputs: Tensor | None) -> tuple[Tensor | None, ...]:
        token = inside_checkpoint.set(True)
        try:
            return module(*inputs)
        finally:
            inside_checkpoint.reset(token)

    return checkpoint(
        run, *inputs, use_reentrant=False, context_fn=lambda: (nullcontext(), _RunningStatisticsKept(module))
    )


def recompute(module: nn.Module, function: Callable[..., Tensor], *inputs: Tensor, random: bool = False) -> Tensor:
    """Call ``function(*inputs)``, a part of ``module``, without keeping its intermediate maps in training.

    The backward pass computes them again. Use it for parts with much memory and little computation. Compilers do this
    themselves.

    Args:
        module: Owner of the function's parameters and norms.
        function: Function that returns one map.
        *inputs: Its inputs, which are kept.
        random: Whether it uses random numbers, which the second pass then reproduces.
    """
    # is_compiling comes first, since torch.compile cannot trace context variables.
    if is_compiling() or not module.training or not torch.is_grad_enabled() or inside_checkpoint.get():
        return function(*inputs)
    return checkpoint(
        function,
        *inputs,
        use_reentrant=False,
        preserve_rng_state=random,
        context_fn=lambda: (nullcontext(), _RunningStatisticsKept(module)),
    )
