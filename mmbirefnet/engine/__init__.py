"""Training: optimizer wrappers, hooks and loops."""

import mmbirefnet.needs_openmmlab  # noqa: F401
from mmbirefnet.engine.optimizers.autocast_optim_wrapper import BFloat16OptimWrapper

from .hooks import (
    BenchmarkTableHook,
    FiniteHook,
    FuseHook,
    LossScheduleHook,
    MaskKindHook,
    ReleasedCheckpointHook,
    SafeCheckpointHook,
    SoftMapHook,
    StopSignalHook,
    WorkDirLockHook,
    WorkerGuardHook,
)
from .loops import ResumableTrainLoop

__all__ = [
    'BFloat16OptimWrapper',
    'BenchmarkTableHook',
    'FiniteHook',
    'FuseHook',
    'LossScheduleHook',
    'MaskKindHook',
    'ReleasedCheckpointHook',
    'ResumableTrainLoop',
    'SafeCheckpointHook',
    'SoftMapHook',
    'StopSignalHook',
    'WorkDirLockHook',
    'WorkerGuardHook',
]
