"""Mean squared error: mean over pixels of (p - g)^2, p = sigmoid(logit)."""

from mmbirefnet.registry import MODELS

from .base import PixelLoss


@MODELS.register_module()
class MSELoss(PixelLoss):
    """Mean squared error of the probabilities."""

    default_name = 'loss_mse'

    def compute(self, logits, target, shared):
        return (logits.sigmoid() - target).square()
