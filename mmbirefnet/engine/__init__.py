"""Training: optimizer wrappers, hooks and loops."""

from .autocast_optim_wrapper import BFloat16OptimWrapper
from .hooks import FuseHook, LossScheduleHook, SoftMapHook

__all__ = ['BFloat16OptimWrapper', 'FuseHook', 'LossScheduleHook', 'SoftMapHook']
