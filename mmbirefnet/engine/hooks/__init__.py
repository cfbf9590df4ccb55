from mmbirefnet.registry import RENAMED
from mmbirefnet.utils.deprecation import former_names

from .atomic_checkpoint_hook import AtomicCheckpointHook
from .benchmark_table_hook import BenchmarkTableHook
from .cuda_graph_hook import CUDAGraphHook
from .finite_hook import FiniteHook
from .logger_hook import RankZeroLoggerHook
from .loss_schedule import LossScheduleHook
from .model_hooks import BufferSyncHook, FuseHook, MatmulPrecisionHook
from .pretrained_checkpoint_hook import PretrainedCheckpointHook
from .soft_mask_hook import SoftMaskHook
from .stop_signal_hook import StopSignalHook
from .val_loss_hook import ValLossHook
from .visualization_hooks import FirstBatchHook, SoftMapHook
from .work_dir_lock_hook import WorkDirLockHook
from .worker_guard_hook import WorkerGuardHook

__all__ = [
    'AtomicCheckpointHook',
    'BenchmarkTableHook',
    'BufferSyncHook',
    'CUDAGraphHook',
    'FiniteHook',
    'FirstBatchHook',
    'FuseHook',
    'LossScheduleHook',
    'MatmulPrecisionHook',
    'PretrainedCheckpointHook',
    'RankZeroLoggerHook',
    'SoftMapHook',
    'SoftMaskHook',
    'StopSignalHook',
    'ValLossHook',
    'WorkDirLockHook',
    'WorkerGuardHook',
]
__getattr__ = former_names(__name__, RENAMED)
