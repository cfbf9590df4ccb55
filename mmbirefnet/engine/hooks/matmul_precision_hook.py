"""Precision of float32 matrix products."""

from __future__ import annotations

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmbirefnet.registry import HOOKS

PRECISIONS = ('highest', 'high', 'medium')


@HOOKS.register_module()
class MatmulPrecisionHook(Hook):
    """Sets the precision of float32 matrix products for a run (``torch.set_float32_matmul_precision``).

    cuDNN's convolutions are not affected: they use TF32 unless ``torch.backends.cudnn.allow_tf32`` is False.

    Args:
        precision: ``'highest'`` for float32, ``'high'`` for TF32 on GPUs that have it (Ampere and later), or
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
        """Restore the precision that the process had."""
        torch.set_float32_matmul_precision(self._former)
