"""The outward reference of Zheng et al., 2024: attention to where the image has fine gradients."""

import torch
import torch.nn.functional as F
from mmcv.cnn import build_norm_layer
from mmengine.model import BaseModule
from torch import Tensor, nn

from .resize import resize


class OutwardReference(BaseModule):
    """Predict a gradient map from a decoder stage and attend by it (Sec. 3.3, OutRef).

    Args:
        in_channels: Channels of the stage's map.
        channels: Channels from which gradient and attention are predicted.
        predict_gradient: Whether to build the layer that the gradient supervision trains.
        norm_cfg: Type of the norm.
    """

    def __init__(
        self, in_channels: int, channels: int = 16, predict_gradient: bool = True, norm_cfg: dict = dict(type='BN')
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, channels, 3, padding=1)
        self.norm = build_norm_layer(norm_cfg, channels)[1]
        self.act = nn.ReLU(inplace=True)
        self.attention = nn.Conv2d(channels, 1, 1)
        self.gradient = nn.Conv2d(channels, 1, 1) if predict_gradient else None

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Map ``(N, C, H, W)`` to attention in [0, 1] and, in training, gradient logits, both ``(N, 1, H, W)``."""
        x = self.act(self.norm(self.conv(x)))
        gradient = self.gradient(x) if self.training and self.gradient is not None else None
        return self.attention(x).sigmoid(), gradient


def laplacian(image: Tensor) -> Tensor:
    """Laplacian of the channel mean of an image with a 5x5 kernel of unit absolute sum, ``(N, 1, H, W)``.

    The kernel is one everywhere and minus the sum of these in the middle; borders are reflected.
    """
    grey = image.mean(1, keepdim=True)
    kernel = grey.new_ones(1, 1, 5, 5)
    kernel[..., 2, 2] = -24
    return F.conv2d(F.pad(grey, (2, 2, 2, 2), mode='reflect'), kernel / kernel.abs().sum())


def log_odds(logits: Tensor, background: int | None = None) -> Tensor:
    """Logits of several classes as those of one map, which :func:`gradient_target` takes.

    With a background class they are the log-odds of all other classes together; for two classes that is the logit
    difference, so a softmax of two and a sigmoid of one have the same targets. Data without a background class have
    objects everywhere: there they are the log-odds of each pixel's most probable class.

    Args:
        logits: Of a softmax, ``(N, K, H, W)``; with K = 1 of a sigmoid, returned as they are.
        background: Index of the background class, or ``None``.

    Returns:
        log(p / (1 - p)), ``(N, 1, H, W)``.
    """
    if logits.shape[1] == 1:
        return logits
    if background is None:
        best, index = logits.max(1, keepdim=True)
        return best - logits.scatter(1, index, -torch.inf).logsumexp(1, keepdim=True)
    objects = [i for i in range(logits.shape[1]) if i != background]
    return logits[:, objects].logsumexp(1, keepdim=True) - logits[:, background, None]


def gradient_target(image: Tensor, side_logits: Tensor) -> Tensor:
    """What the gradient prediction of a stage is to become, as logits ``(N, 1, H, W)`` at the image's size.

    The image's Laplacian where the stage's own side output sees the object; as in the reference, the side output
    enters as logits and is not detached.
    """
    return laplacian(image) * resize(side_logits, image.shape[2:])


def gradient_loss(gradient_logits: Tensor, target_logits: Tensor) -> Tensor:
    """Binary cross-entropy between the two probability maps, averaged over pixels, in float32."""
    gradient_logits = resize(gradient_logits.float(), target_logits.shape[2:])
    return F.binary_cross_entropy_with_logits(gradient_logits, target_logits.float().sigmoid())
