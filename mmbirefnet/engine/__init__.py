"""Training: optimizer wrappers, hooks and loops."""

import mmbirefnet.needs_openmmlab  # noqa: F401
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
