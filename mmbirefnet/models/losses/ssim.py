"""Structural similarity (Wang et al., 2004), L_SSIM of Zheng et al., 2024:

    SSIM = (2 mu_p mu_g + C1) (2 sigma_pg + C2) / ((mu_p^2 + mu_g^2 + C1) (sigma_p^2 + sigma_g^2 + C2)),

with moments under an 11x11 Gaussian window with sigma 1.5 and zero padding, C1 = 0.01^2, C2 = 0.03^2. The loss is the
mean over pixels of (1 - SSIM) / 2, as in the reference implementation (the paper writes 1 - SSIM).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mmbirefnet.models.layers.activation_checkpointing import recompute
from mmbirefnet.registry import MODELS

from .base import MaskLoss

C1, C2 = 0.01**2, 0.03**2


@MODELS.register_module()
class SSIMLoss(MaskLoss):
    """Mean over pixels of (1 - SSIM) / 2, L_SSIM of Zheng et al., 2024.

    Args:
        loss_weight, loss_name: See :class:`~mmbirefnet.models.losses.base.MaskLoss`.
        window_size: Width of the Gaussian window in pixels, odd.
        sigma: Its standard deviation in pixels.

    Raises:
        ValueError: If ``window_size`` is even.
    """

    default_name = 'loss_ssim'

    def __init__(
        self, loss_weight: float = 1.0, loss_name: str | None = None, *, window_size: int = 11, sigma: float = 1.5
    ) -> None:
        super().__init__(loss_weight, loss_name)
        if window_size % 2 == 0:
            raise ValueError(f'window_size must be odd, got {window_size}')
        self.window_size = window_size
        self.sigma = sigma

    def local_means(self, *maps: Tensor) -> tuple[Tensor, ...]:
        """Means of maps ``(N, 1, H, W)`` under the window, computed along columns and then along rows."""
        # On the CPU, depthwise convolutions are many times faster for channels-last maps.
        x = torch.cat(maps, dim=1).contiguous(memory_format=torch.channels_last)
        padding, channels = self.window_size // 2, len(maps)
        distance = torch.arange(-padding, padding + 1, dtype=x.dtype, device=x.device)
        window = torch.exp(-distance.square() / (2 * self.sigma**2))
        window = (window / window.sum()).expand(channels, 1, -1)
        x = F.conv2d(x, window.unsqueeze(3), padding=(padding, 0), groups=channels)
        return F.conv2d(x, window.unsqueeze(2), padding=(0, padding), groups=channels).split(1, dim=1)

    def prepare(self, target):
        """Local mean and variance of the mask."""
        mean, mean_square = self.local_means(target, target.square())
        return mean, mean_square - mean.square()

    def compute(self, logits, target, shared):
        return recompute(self, self._dissimilarity, logits, target, *shared)

    def _dissimilarity(self, logits, target, mu_g, var_g):
        p = logits.sigmoid()
        mu_p, mean_pp, mean_pg = self.local_means(p, p.square(), p * target)
        var_p, covariance = mean_pp - mu_p.square(), mean_pg - mu_p * mu_g
        ssim = (2 * mu_p * mu_g + C1) * (2 * covariance + C2)
        ssim = ssim / ((mu_p.square() + mu_g.square() + C1) * (var_p + var_g + C2))
        return (1 - ssim.mean()) / 2
