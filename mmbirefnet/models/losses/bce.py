"""Binary cross-entropy, L_BCE of Zheng et al., 2024, as a mean over pixels:

-(g log p + (1 - g) log(1 - p)),  p = sigmoid(logit).
"""

import torch.nn.functional as F

from mmbirefnet.registry import MODELS

from .base import PixelLoss


@MODELS.register_module()
class BCELoss(PixelLoss):
    """Binary cross-entropy, computed from the logits so that it does not saturate."""

    default_name = 'loss_bce'

    def compute(self, logits, target, shared):
        return F.binary_cross_entropy_with_logits(logits, target, reduction='none')
