"""Active contours without edges (Chen et al., CVPR 2019), on p = sigmoid(logit):

    10 mean(sqrt(dy^2 + dx^2 + 1e-8)) + mean(p (1 - g)^2) + mean((1 - p) g^2),

with the length of the contour and the errors in the two regions. dy(y, x) = p(y + 2, x) - p(y + 1, x) and
dx(y, x) = p(y, x + 2) - p(y, x + 1) are forward differences. As in the published implementations, they are offset from
each other by one pixel.
"""

from __future__ import annotations

from mmbirefnet.registry import MODELS

from .base import MaskLoss


@MODELS.register_module()
class ContourLoss(MaskLoss):
    """Active contour loss (Chen et al., CVPR 2019): length of the contour and error of the regions.

    Maps need at least 3x3 pixels.

    Args:
        loss_weight, loss_name: See :class:`~mmbirefnet.models.losses.base.MaskLoss`.
        length_weight: Factor of the length relative to the regions.
    """

    default_name = 'loss_contour'

    def __init__(self, loss_weight: float = 1.0, loss_name: str | None = None, *, length_weight: float = 10.0) -> None:
        super().__init__(loss_weight, loss_name)
        self.length_weight = length_weight

    def compute(self, logits, target, shared):
        p = logits.sigmoid()
        dy = p[..., 2:, :-2] - p[..., 1:-1, :-2]
        dx = p[..., :-2, 2:] - p[..., :-2, 1:-1]
        length = (dy.square() + dx.square() + 1e-8).sqrt().mean()
        region = (p * (1 - target).square() + (1 - p) * target.square()).mean()
        return self.length_weight * length + region
