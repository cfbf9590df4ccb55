"""Mean absolute error: mean over pixels of |p - g|, p = sigmoid(logit)."""

from mmbirefnet.registry import MODELS

from .base import PixelLoss


@MODELS.register_module()
class MAELoss(PixelLoss):
    """Mean absolute error of the probabilities."""

    default_name = 'loss_mae'

    def compute(self, logits, target, shared):
        return (logits.sigmoid() - target).abs()
