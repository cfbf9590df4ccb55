"""Structure loss (Wei et al., F3Net, AAAI 2020): cross-entropy and IoU with larger weights near the edges of the mask.

    w = 1 + 5 |mean_31x31(g) - g|,  where the mean includes the zero padding
    sum(w BCE) / sum(w) + 1 - (sum(w p g) + 1) / (sum(w (p + g)) - sum(w p g) + 1),  p = sigmoid(logit),

with sums over the pixels of an image; mean over the batch. (The reference passes probabilities instead of logits.)
"""

from __future__ import annotations

import torch.nn.functional as F

from mmbirefnet.registry import MODELS

from .base import MaskLoss


@MODELS.register_module()
class StructureLoss(MaskLoss):
    """Edge-weighted binary cross-entropy plus edge-weighted IoU loss (Wei et al., 2020), mean over the batch.

    Args:
        loss_weight, loss_name: See :class:`~mmbirefnet.models.losses.base.MaskLoss`.
    """

    default_name = 'loss_structure'

    def prepare(self, target):
        """Weights of the pixels, ``(N, 1, H, W)``."""
        return 1 + 5 * (F.avg_pool2d(target, kernel_size=31, stride=1, padding=15) - target).abs()

    def compute(self, logits, target, shared):
        p, dim = logits.sigmoid(), (1, 2, 3)
        bce = F.binary_cross_entropy_with_logits(logits, target, reduction='none')
        intersection = (shared * p * target).sum(dim)
        union = (shared * (p + target)).sum(dim) - intersection
        iou = (intersection + 1) / (union + 1)
        return ((shared * bce).sum(dim) / shared.sum(dim) + 1 - iou).mean()
