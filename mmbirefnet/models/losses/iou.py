"""Soft intersection over union, L_IoU of Zheng et al., 2024:

    1 - sum(p g) / (sum p + sum g - sum(p g)),  p = sigmoid(logit),

with sums over the pixels of an image, summed over the batch as in the reference implementation.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mmbirefnet.registry import MODELS

from .base import MaskLoss

# Far below one pixel; keeps the gradient finite if neither map nor mask has any foreground.
EPS = 1e-6


def iou_loss(p: Tensor, g: Tensor, dim: tuple[int, ...]) -> Tensor:
    """1 - IoU of probabilities ``p`` and mask ``g`` over the axes ``dim``; 1, without gradient, if both are empty."""
    intersection = torch.sum(p * g, dim)
    union = torch.sum(p + g, dim) - intersection
    return 1 - intersection / union.clamp(min=EPS)


@MODELS.register_module()
class IoULoss(MaskLoss):
    """1 - soft intersection over union (L_IoU of Zheng et al., 2024) of each image, summed over the batch.

    Args:
        loss_weight, loss_name: See :class:`~mmbirefnet.models.losses.base.MaskLoss`.
    """

    default_name = 'loss_iou'

    def compute(self, logits, target, shared):
        return iou_loss(logits.sigmoid(), target, dim=(1, 2, 3)).sum()


def windows(x: Tensor, size: int) -> Tensor:
    """Split ``(N, 1, H, W)`` into windows ``(N, rows, size, columns, size)``, padded with 0."""
    height, width = x.shape[2:]
    x = F.pad(x, (0, -width % size, 0, -height % size))
    return x.reshape(len(x), x.shape[2] // size, size, x.shape[3] // size, size)


@MODELS.register_module()
class PatchIoULoss(MaskLoss):
    """1 - soft intersection over union of each window, summed over windows and batch.

    The windows tile the map from its top left corner; those at the right and bottom border may be smaller. The
    loop of the reference implementation runs over the wrong axes and reaches only the first window.

    Args:
        loss_weight, loss_name: See :class:`~mmbirefnet.models.losses.base.MaskLoss`.
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
