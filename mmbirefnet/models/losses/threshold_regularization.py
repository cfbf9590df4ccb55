"""Threshold regularisation, which draws probabilities towards 0 and 1 whatever the mask:

1 - (p^2 + (p - 1)^2) = 2 p (1 - p),  p = sigmoid(logit), mean over pixels.
"""

from mmbirefnet.registry import MODELS

from .base import PixelLoss


@MODELS.register_module()
class ThresholdRegularizationLoss(PixelLoss):
    """Mean of 2 p (1 - p): 0 for a binary map, 1/2 for one that is undecided everywhere."""

    default_name = 'loss_threshold'

    def compute(self, logits, target, shared):
        p = logits.sigmoid()
        return 2 * p * (1 - p)
