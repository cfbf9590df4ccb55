from .benchmark_table_hook import BenchmarkTableHook
from .finite_hook import FiniteHook
from .fuse_hook import FuseHook
from .loss_schedule import LossScheduleHook
from .mask_kind_hook import MaskKindHook
from .released_checkpoint_hook import ReleasedCheckpointHook
from .safe_checkpoint_hook import SafeCheckpointHook
from .soft_map_hook import SoftMapHook
from .stop_signal_hook import StopSignalHook
from .work_dir_lock_hook import WorkDirLockHook
from .worker_guard_hook import WorkerGuardHook

__all__ = [
    'BenchmarkTableHook',
    'FiniteHook',
    'FuseHook',
    'LossScheduleHook',
    'MaskKindHook',
    'ReleasedCheckpointHook',
    'SafeCheckpointHook',
    'SoftMapHook',
    'StopSignalHook',
    'WorkDirLockHook',
    'WorkerGuardHook',
]
