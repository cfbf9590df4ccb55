"""Small hooks that change the model or its arithmetic for a run or a test."""

from __future__ import annotations

import torch
from mmengine.dist import broadcast
from mmengine.hooks import EMAHook, Hook
from mmengine.runner import Runner
from torch import nn

from mmbirefnet.deploy import fuse
from mmbirefnet.models import BiRefNet
from mmbirefnet.registry import HOOKS

PRECISIONS = ('highest', 'high', 'medium')


@HOOKS.register_module()
class BufferSyncHook(Hook):
    """Broadcast the buffers of rank 0, such as the running statistics of BatchNorm, before each validation.

    All processes then validate the model that rank 0 saves, including the average of ``EMAHook``. PyTorch's
    ``DistributedDataParallel`` does the same in each forward pass. mmengine's ``SyncBuffersHook`` averages the buffers.
    Since only those of rank 0 are saved, a run that stopped within an epoch could then not resume exactly.
    """

    def after_train_epoch(self, runner: Runner) -> None:
        """Broadcast the buffers before hooks of a lower priority save a checkpoint."""
        self._broadcast(runner)

    def before_val_epoch(self, runner: Runner) -> None:
        """Broadcast the buffers, also if the training counts iterations."""
        self._broadcast(runner)

    @staticmethod
    def _broadcast(runner: Runner) -> None:
        averaged = [hook.ema_model for hook in runner.hooks if isinstance(hook, EMAHook)]
        for model in (runner.model, *averaged):
            for buffer in model.buffers():
                broadcast(buffer)  # nothing to do for one process


@HOOKS.register_module()
class FuseHook(Hook):
    """Replace the model with its fused copy (:func:`~mmbirefnet.deploy.fuse`) during a test.

    The BiRefNet may be wrapped, for test-time augmentation or several processes. Other models are not changed.
    """

    priority = 'LOWEST'  # after EMAHook, which copies its averages into the plain model

    def before_test_epoch(self, runner: Runner) -> None:
        """Fuse the model after its checkpoint was loaded."""
        self._owner, self._name = _find(runner)
        self._plain = getattr(self._owner, self._name)
        if isinstance(self._plain, BiRefNet):
            setattr(self._owner, self._name, fuse(self._plain))

    def after_test_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Restore the plain model."""
        setattr(self._owner, self._name, self._plain)


def _find(runner: Runner) -> tuple[Runner | nn.Module, str]:
    """The owner and the attribute that hold the innermost model."""
    owner, name = runner, 'model'
    while not isinstance(model := getattr(owner, name), BiRefNet) and hasattr(model, 'module'):
        owner, name = model, 'module'
    return owner, name


@HOOKS.register_module()
class MatmulPrecisionHook(Hook):
    """Set the precision of float32 matrix products for a run (``torch.set_float32_matmul_precision``).

    cuDNN's convolutions are not affected: they use TF32 unless ``torch.backends.cudnn.allow_tf32`` is False.

    Args:
        precision: ``'highest'`` for float32, ``'high'`` for TF32 on GPUs that support it (Ampere and later), or
            ``'medium'`` for bfloat16.

    Raises:
        ValueError: If ``precision`` is none of these.
    """

    priority = 'VERY_HIGH'

    def __init__(self, precision: str = 'high') -> None:
        if precision not in PRECISIONS:
            raise ValueError(f'MatmulPrecisionHook: precision must be one of {PRECISIONS}, got {precision!r}')
        self.precision = precision

    def before_run(self, runner: Runner) -> None:
        """Set the precision."""
        self._former = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision(self.precision)

    def after_run(self, runner: Runner) -> None:
        """Restore the former precision of the process; after an error, ``engine.launch.runner_of`` does."""
        torch.set_float32_matmul_precision(self._former)
