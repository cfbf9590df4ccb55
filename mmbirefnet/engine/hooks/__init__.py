from .loss_schedule import LossScheduleHook
from .soft_map_hook import SoftMapHook

__all__ = ['LossScheduleHook', 'SoftMapHook']
