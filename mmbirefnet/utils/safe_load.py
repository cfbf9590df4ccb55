"""Lets ``torch.load`` read mmengine's checkpoints while its weights-only guard stays on.

mmengine saves its message hub with every checkpoint: loss histories (``HistoryBuffer`` objects around numpy arrays)
and numpy scalars. From torch 2.6 on ``torch.load`` refuses these unless they are declared safe.
"""

import builtins
import pickle

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from packaging.version import Version

try:
    from numpy._core import multiarray  # numpy >= 2
except ImportError:
    from numpy.core import multiarray

_STATISTICS = ('min', 'max', 'current', 'mean')
_DTYPES = ('float64', 'float32', 'int64', 'int32', 'bool')


def history_statistic(owner, name):
    """What a checkpoint may look up by ``getattr``: a statistic of ``HistoryBuffer``, nothing else.

    A pickle of a ``HistoryBuffer`` names its methods as ``getattr(HistoryBuffer, 'mean')``. Allowing the real
    ``getattr`` would open every attribute of every allowed class to a forged checkpoint.
    """
    if owner is not HistoryBuffer or name not in _STATISTICS:
        raise pickle.UnpicklingError(
            f'checkpoint asks for the attribute {name!r} of {owner!r}; only {_STATISTICS} of HistoryBuffer'
        )
    return getattr(owner, name)


def register_safe_globals() -> None:
    """Declare what mmengine's checkpoints hold as safe to unpickle (torch >= 2.6; older ones have no such guard).

    Each is given with its path, as a pair: the fork of mmengine declares some of them without, for the time of a load,
    and takes those back afterwards.
    """
    if Version(torch.__version__) < Version('2.6'):
        return
    safe = [HistoryBuffer, np.ndarray, np.dtype, *{type(np.dtype(name)) for name in _DTYPES}]
    pairs = [(each, f'{each.__module__}.{each.__qualname__}') for each in safe]
    for name in ('_reconstruct', 'scalar'):  # numpy 1 and 2 write different module names
        pairs += [(getattr(multiarray, name), f'numpy.{core}.multiarray.{name}') for core in ('core', '_core')]
    if builtins.getattr not in torch.serialization.get_safe_globals():  # do not narrow what the user has allowed
        pairs.append((history_statistic, 'builtins.getattr'))
    torch.serialization.add_safe_globals(pairs)
