from .atomic_checkpoint_hook import SafeCheckpointHook
from .benchmark_table_hook import BenchmarkTableHook
from .finite_hook import FiniteHook
from .loss_schedule import LossScheduleHook
from .model_hooks import BufferSyncHook, FuseHook, MatmulPrecisionHook
from .pretrained_checkpoint_hook import ReleasedCheckpointHook
from .soft_mask_hook import MaskKindHook
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
