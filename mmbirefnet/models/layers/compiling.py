"""Whether ``torch.compile`` or ``torch.export`` is tracing, and functions that they must not compile."""

import functools
from collections.abc import Callable

import torch

try:
    from torch.compiler import is_compiling
except ImportError:  # torch < 2.3, whose tracer supports this function
    from torch._utils import is_compiling

__all__ = ['is_compiling', 'uncompiled']


def uncompiled(function: Callable) -> Callable:
    """``torch.compiler.disable`` as a decorator that does not import the compiler, which takes a second."""

    @functools.wraps(function)
    def call(*args, **kwargs):
        if is_compiling():
            return torch.compiler.disable(function)(*args, **kwargs)
        return function(*args, **kwargs)

    return call
