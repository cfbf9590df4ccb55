from .benchmark_table_hook import BenchmarkTableHook
from .loss_schedule import LossScheduleHook
from .soft_map_hook import SoftMapHook

__all__ = ['BenchmarkTableHook', 'LossScheduleHook', 'SoftMapHook']
