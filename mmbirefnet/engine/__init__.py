"""Training: optimizer wrappers, hooks and loops."""

from mmbirefnet.registry import RENAMED  # first: importing the registry checks the installed packages
from mmbirefnet.utils.deprecation import former_names

from . import hooks
from .hooks import *  # noqa: F403
from .loops import ResumableTestLoop, ResumableTrainLoop
from .optimizers import BFloat16OptimWrapper
from .strategies import ResumableFSDPStrategy

__all__ = [
    'BFloat16OptimWrapper',
    'ResumableFSDPStrategy',
    'ResumableTestLoop',
    'ResumableTrainLoop',
    *hooks.__all__,
]
__getattr__ = former_names(__name__, RENAMED)
