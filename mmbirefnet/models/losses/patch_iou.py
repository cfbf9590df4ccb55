"""Soft intersection over union of windows: that of ``iou.py`` in each window of 64 x 64 pixels.

The windows tile the map from its top left corner; those at the right and lower border may be smaller. Added up over
windows and batch. (The reference implementation means this, but loops over the wrong axes and sees one window.)
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from mmbirefnet.registry import MODELS

from .base import MaskLoss
from .iou import iou_loss


def windows(x: Tensor, size: int) -> Tensor:
    """``(N, 1, H, W)`` to ``(N, rows, size, columns, size)``, filled up with 0."""
    height, width = x.shape[2:]
    x = F.pad(x, (0, -width % size, 0, -height % size))
    return x.reshape(len(x), x.shape[2] // size, size, x.shape[3] // size, size)


@MODELS.register_module()
class PatchIoULoss(MaskLoss):
    """Soft intersection over union per window, summed over windows and batch.

    Args:
        loss_weight, loss_name: See ``MaskLoss``.
        window_size: Height and width of a window, in pixels.
    """

    default_name = 'loss_patch_iou'

    def __init__(self, loss_weight: float = 1.0, loss_name: str | None = None, *, window_size: int = 64) -> None:
        super().__init__(loss_weight, loss_name)
        self.window_size = window_size

    def prepare(self, target):
        return windows(target, self.window_size)

    def compute(self, logits, target, shared):
        return iou_loss(windows(logits.sigmoid(), self.window_size), shared, dim=(2, 4)).sum()
