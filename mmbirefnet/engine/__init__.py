"""Training: optimizer wrappers, hooks and loops."""

import mmbirefnet.registry  # noqa: F401  checks the packages before they are imported
from mmbirefnet.engine.optimizers.autocast_optim_wrapper import BFloat16OptimWrapper

from .hooks import (
    BenchmarkTableHook,
    BufferSyncHook,
    FiniteHook,
    FuseHook,
    LossScheduleHook,
    MaskKindHook,
    MatmulPrecisionHook,
    ReleasedCheckpointHook,
    SafeCheckpointHook,
    SoftMapHook,
    StopSignalHook,
    ValLossHook,
    WorkDirLockHook,
    WorkerGuardHook,
)
from .loops import ResumableTrainLoop

__all__ = [
    'BFloat16OptimWrapper',
    'BenchmarkTableHook',
    'BufferSyncHook',
    'FiniteHook',
    'FuseHook',
    'LossScheduleHook',
    'MaskKindHook',
    'MatmulPrecisionHook',
    'ReleasedCheckpointHook',
    'ResumableTrainLoop',
    'SafeCheckpointHook',
    'SoftMapHook',
    'StopSignalHook',
    'ValLossHook',
    'WorkDirLockHook',
    'WorkerGuardHook',
]
