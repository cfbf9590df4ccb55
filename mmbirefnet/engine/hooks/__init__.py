from .loss_schedule import LossScheduleHook

__all__ = ['LossScheduleHook']
