"""Soft intersection over union, L_IoU of Zheng et al., 2024:

    1 - sum(p g) / (sum p + sum g - sum(p g)),  p = sigmoid(logit),

the sums over the pixels of an image; added up over the batch, as the reference implementation does.
"""

import torch
from torch import Tensor

from mmbirefnet.registry import MODELS

from .base import MaskLoss

# Far below one pixel; keeps the gradient finite where neither map nor mask has any foreground.
EPS = 1e-6


def iou_loss(p: Tensor, g: Tensor, dim: tuple[int, ...]) -> Tensor:
    """1 - IoU over ``dim`` of probabilities ``p`` and mask ``g``; 1, without gradient, where both are empty."""
    intersection = torch.sum(p * g, dim)
    union = torch.sum(p + g, dim) - intersection
    return 1 - intersection / union.clamp(min=EPS)


@MODELS.register_module()
class IoULoss(MaskLoss):
    """Soft intersection over union per image, summed over the batch."""

    default_name = 'loss_iou'

    def compute(self, logits, target, shared):
        return iou_loss(logits.sigmoid(), target, dim=(1, 2, 3)).sum()
