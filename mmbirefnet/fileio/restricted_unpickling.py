"""Load files of ``torch.save`` without running code in them.

mmengine saves its message hub in every checkpoint: loss histories (``HistoryBuffer`` objects with numpy arrays) and
numpy scalars. From torch 2.6 on, ``torch.load`` rejects these unless they are declared safe. Before, its guard is off
by default and does not support declarations, so a restricted pickle module replaces it.
"""

import builtins
import collections
import functools
import io
import os
import pickle
import types
import zipfile
from contextlib import nullcontext

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from packaging.version import Version

from mmbirefnet.fileio.pickle_bounds import check_bounds

try:
    from numpy._core import multiarray  # numpy >= 2
except ImportError:
    from numpy.core import multiarray

_GUARDED = Version(torch.__version__) >= Version('2.6')
_STATISTICS = ('min', 'max', 'current', 'mean')
_DTYPES = ('float64', 'float32', 'int64', 'int32', 'bool')


def history_statistic(owner, name):
    """Replacement of ``getattr`` in checkpoints, which only returns statistics of ``HistoryBuffer``.

    Pickles of ``HistoryBuffer`` contain ``getattr(HistoryBuffer, 'mean')``. The real ``getattr`` would give a forged
    checkpoint access to every attribute of every allowed class.
    """
    if owner is not HistoryBuffer or name not in _STATISTICS:
        raise pickle.UnpicklingError(
            f'checkpoint asks for the attribute {name!r} of {owner!r}; only {_STATISTICS} of HistoryBuffer'
        )
    return getattr(owner, name)


def _safe_globals() -> list[tuple[object, str]]:
    """Objects in mmengine's checkpoints besides tensors, each with its name in a pickle."""
    safe = [HistoryBuffer, np.ndarray, np.dtype]
    if hasattr(np, 'dtypes'):  # numpy < 1.25 does not pickle any of its classes
        safe += {type(np.dtype(name)) for name in _DTYPES}
    pairs = [(each, f'{each.__module__}.{each.__qualname__}') for each in safe]
    for name in ('_reconstruct', 'scalar'):  # numpy 1 and 2 write different module names
        pairs += [(getattr(multiarray, name), f'numpy.{core}.multiarray.{name}') for core in ('core', '_core')]
    return pairs


def register_safe_globals() -> None:
    """Declare the objects in mmengine's checkpoints as safe to unpickle (torch >= 2.6).

    Each is declared as a pair with its path: the fork of mmengine declares some without a path during a load, and
    removes these afterwards.
    """
    if not _GUARDED:
        return
    pairs = _safe_globals()
    if builtins.getattr not in torch.serialization.get_safe_globals():  # keep declarations of the user
        pairs.append((history_statistic, 'builtins.getattr'))
    torch.serialization.add_safe_globals(pairs)


def load_guarded(file, map_location=None, mmap: bool = False):
    """Call ``torch.load``, but only create tensors, plain values, and the objects that mmengine saves with them.

    Args:
        file: Path, or binary file.
        map_location, mmap: See ``torch.load``.

    Raises:
        pickle.UnpicklingError: If the file contains other objects, which the message names, or needs more memory or
            time than its size justifies.
        Exception: Various types, for damaged files.
    """
    file = os.fspath(file) if isinstance(file, os.PathLike) else file  # torch 2.1 cannot map other files
    options = dict(map_location=map_location, **(dict(mmap=True) if mmap else {}))
    with open(file, 'rb') if isinstance(file, str) else nullcontext(file) as binary:
        start = binary.tell()
        check_bounds(binary)
        binary.seek(start)
    if _GUARDED:
        register_safe_globals()  # it may be called before setup()
        return torch.load(file, weights_only=True, **options)
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            if any(name.endswith('/constants.pkl') for name in archive.namelist()):
                raise pickle.UnpicklingError('GLOBAL TorchScript: a program')
    if hasattr(file, 'seek'):
        file.seek(0)
    return torch.load(file, weights_only=False, pickle_module=_PICKLE, **options)


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str):
        try:
            return _allowed()[f'{module}.{name}']
        except KeyError:
            raise pickle.UnpicklingError(f'GLOBAL {module}.{name} was not an allowed global') from None


def _load(file, **options):
    return _Unpickler(file, **options).load()


def _loads(data: bytes, **options):
    return _load(io.BytesIO(data), **options)


# Part of the module pickle that torch.load uses.
_PICKLE = types.SimpleNamespace(__name__='guarded pickle', Unpickler=_Unpickler, load=_load, loads=_loads)


@functools.cache
def _allowed() -> dict[str, object]:
    """Objects that may be unpickled before torch 2.6, by name in a pickle."""
    allowed = dict(torch._weights_only_unpickler._get_allowed_globals())
    allowed |= {name: each for each, name in _safe_globals()}
    allowed |= {str(each): each for each in vars(torch).values() if isinstance(each, torch.dtype)}
    allowed |= {'collections.Counter': collections.Counter, 'torch.device': torch.device}
    # Protocol 2, which torch writes, uses names of Python 2, and stores bytes as text.
    allowed |= dict.fromkeys(('__builtin__.getattr', 'builtins.getattr'), history_statistic)
    return allowed | {'_codecs.encode': _encode}


def _encode(text: str, encoding: str) -> bytes:
    if encoding != 'latin1':
        raise pickle.UnpicklingError(f'GLOBAL _codecs.encode: of {encoding!r}')
    return text.encode(encoding)
