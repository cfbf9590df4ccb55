"""Whether ``torch.compile`` or ``torch.export`` is tracing, and functions that they must not compile."""

import functools
from collections.abc import Callable

import torch

try:
    from torch.compiler import is_compiling
except ImportError:  # torch < 2.3, whose tracer supports this function
    from torch._utils import is_compiling

__all__ = ['is_compiling', 'uncompiled']


_uncompiled: dict[Callable, Callable] = {}


def uncompiled(function: Callable) -> Callable:
    """``torch.compiler.disable`` as a decorator that does not import the compiler, which takes a second."""

    @functools.wraps(function)
    def call(*args, **kwargs):
        if not is_compiling():
            return function(*args, **kwargs)
        # Reuse the wrapper: for a new function in each call, the code around it would be compiled again.
        if function not in _uncompiled:
            _uncompiled[function] = torch.compiler.disable(function)
        return _uncompiled[function](*args, **kwargs)

    return call
