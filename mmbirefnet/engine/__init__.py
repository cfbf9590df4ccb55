"""Training: optimizer wrappers, hooks and loops."""

from .autocast_optim_wrapper import BFloat16OptimWrapper
from .hooks import LossScheduleHook, SoftMapHook

__all__ = ['BFloat16OptimWrapper', 'LossScheduleHook', 'SoftMapHook']
