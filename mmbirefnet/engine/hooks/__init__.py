from .benchmark_table_hook import BenchmarkTableHook
from .fuse_hook import FuseHook
from .loss_schedule import LossScheduleHook
from .soft_map_hook import SoftMapHook

__all__ = ['BenchmarkTableHook', 'FuseHook', 'LossScheduleHook', 'SoftMapHook']
