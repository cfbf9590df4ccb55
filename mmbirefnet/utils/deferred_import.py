"""Defer or avoid the import of a large module that most users do not need."""

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType


class _StandIn(ModuleType):
    def __getattr__(self, name: str):
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(importlib.import_module(self.__name__), name)


@contextmanager
def deferred_import(name: str) -> Iterator[None]:
    """Let ``import name`` return a placeholder that imports the module when an attribute is first read.

    It has no effect if the module is already imported, or not installed.

    Args:
        name: A top-level module.
    """
    spec = None if name in sys.modules else importlib.util.find_spec(name)
    if spec is None:
        yield
        return
    sys.modules[name] = stand_in = _StandIn(name)
    stand_in.__file__ = spec.origin  # inspect.getmodule reads it from all modules
    try:
        yield
    finally:
        if sys.modules.get(name) is stand_in:
            del sys.modules[name]


@contextmanager
def hidden_import(name: str) -> Iterator[None]:
    """Let ``import name`` raise ``ImportError``, as if the module were not installed.

    It has no effect if the module is already imported.

    Args:
        name: A top-level module.
    """
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[name]
