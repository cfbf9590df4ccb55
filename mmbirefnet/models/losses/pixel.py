"""Losses that are a mean over pixels of a function of p = sigmoid(logit) and the mask g."""

import torch.nn.functional as F

from mmbirefnet.registry import MODELS

from .base import PixelLoss


@MODELS.register_module()
class BCELoss(PixelLoss):
    """Binary cross-entropy, L_BCE of Zheng et al., 2024: -(g log p + (1 - g) log(1 - p)).

    It is computed from the logits, so it does not saturate.

    Args:
        loss_weight, loss_name: See :class:`~mmbirefnet.models.losses.base.MaskLoss`.
    """

    default_name = 'loss_bce'

    def compute(self, logits, target, shared):
        return F.binary_cross_entropy_with_logits(logits, target, reduction='none')


@MODELS.register_module()
class MAELoss(PixelLoss):
    """Mean absolute error of the probabilities: ``|p - g|``.

    Args:
        loss_weight, loss_name: See :class:`~mmbirefnet.models.losses.base.MaskLoss`.
    """

    default_name = 'loss_mae'

    def compute(self, logits, target, shared):
        return (logits.sigmoid() - target).abs()


@MODELS.register_module()
class MSELoss(PixelLoss):
    """Mean squared error of the probabilities: (p - g)^2.

    Args:
        loss_weight, loss_name: See :class:`~mmbirefnet.models.losses.base.MaskLoss`.
    """

    default_name = 'loss_mse'

    def compute(self, logits, target, shared):
        return (logits.sigmoid() - target).square()


@MODELS.register_module()
class ThresholdRegularizationLoss(PixelLoss):
    """Threshold regularization: 1 - (p^2 + (p - 1)^2) = 2 p (1 - p), which pulls probabilities to 0 and 1.

    It does not depend on the mask: it is 0 for a binary prediction, and 1/2 if p is 1/2 everywhere.

    Args:
        loss_weight, loss_name: See :class:`~mmbirefnet.models.losses.base.MaskLoss`.
    """

    default_name = 'loss_threshold'

    def compute(self, logits, target, shared):
        p = logits.sigmoid()
        return 2 * p * (1 - p)
