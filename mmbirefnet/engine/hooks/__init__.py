from .benchmark_table_hook import BenchmarkTableHook
from .finite_hook import FiniteHook
from .loss_schedule import LossScheduleHook
from .mask_kind_hook import MaskKindHook
from .model_hooks import BufferSyncHook, FuseHook, MatmulPrecisionHook
from .released_checkpoint_hook import ReleasedCheckpointHook
from .safe_checkpoint_hook import SafeCheckpointHook
from .stop_signal_hook import StopSignalHook
from .val_loss_hook import ValLossHook
from .visualization_hooks import FirstBatchHook, SoftMapHook
from .work_dir_lock_hook import WorkDirLockHook
from .worker_guard_hook import WorkerGuardHook

__all__ = [
    'BenchmarkTableHook',
    'BufferSyncHook',
    'FiniteHook',
    'FirstBatchHook',
    'FuseHook',
    'LossScheduleHook',
    'MaskKindHook',
    'MatmulPrecisionHook',
    'ReleasedCheckpointHook',
    'SafeCheckpointHook',
    'SoftMapHook',
    'StopSignalHook',
    'ValLossHook',
    'WorkDirLockHook',
    'WorkerGuardHook',
]
