"""Former names, which keep working until version 0.3."""

import sys
import warnings
from collections.abc import Callable, Mapping
from typing import TypeVar

T = TypeVar('T')


def warn_renamed(old: str, new: str, stacklevel: int = 3) -> None:
    """Issue a ``DeprecationWarning`` that gives the new name.

    Args:
        old: Former name.
        new: New name.
        stacklevel: Frame that the warning points to, as in :func:`warnings.warn`; by default the caller's caller.
    """
    warnings.warn(f'{old} is now called {new}, and will be removed in 0.3', DeprecationWarning, stacklevel=stacklevel)


def former_argument(old: str, old_value: T | None, new: str, value: T) -> T:
    """Return the value of an argument, which may be given under its former name.

    Call it from the function that has the argument; the warning then points to that function's caller.

    Args:
        old: Former name.
        old_value: Value under the former name; ``None`` if it is not given.
        new: New name.
        value: Value under the new name.
    """
    if old_value is None:
        return value
    warn_renamed(f'{old}=', f'{new}=', stacklevel=4)
    return old_value


def former_names(module: str, names: Mapping[str, str]) -> Callable[[str], object]:
    """Return a ``__getattr__`` for a module, which resolves the former names of its attributes.

    Args:
        module: ``__name__`` of the module.
        names: New names by former name.
    """

    def __getattr__(name: str) -> object:
        if name not in names:
            raise AttributeError(f'module {module!r} has no attribute {name!r}')
        warn_renamed(name, names[name])
        return getattr(sys.modules[module], names[name])

    return __getattr__
