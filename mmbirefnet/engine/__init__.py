"""Training: optimizer wrappers, hooks and loops."""

import mmbirefnet.registry  # noqa: F401  checks the packages before they are imported
from mmbirefnet.engine.optimizers import BFloat16OptimWrapper

from . import hooks
from .hooks import *  # noqa: F403
from .loops import ResumableTestLoop, ResumableTrainLoop

__all__ = ['BFloat16OptimWrapper', 'ResumableTestLoop', 'ResumableTrainLoop', *hooks.__all__]
