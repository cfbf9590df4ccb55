"""The bilateral reference of Zheng et al., 2024 (Sec. 3.3): inward to the image itself, outward to its gradients."""

import torch
import torch.nn.functional as F
from mmcv.cnn import build_norm_layer
from mmengine.model import BaseModule
from torch import Tensor, nn

from .resize import resize, resize_float32


def image_to_patches(image: Tensor, grid: int) -> Tensor:
    """Cut an image into ``grid x grid`` crops and stack them as channels, losing no pixel.

    Args:
        image: ``(N, C, H, W)``, H and W multiples of ``grid``.
        grid: Crops per row and per column.

    Returns:
        ``(N, C * grid * grid, H / grid, W / grid)``, channels in the order (channel, grid row, grid column).

    Raises:
        ValueError: If the image cannot be cut evenly.
    """
    height, width = image.shape[2:]
    if height % grid or width % grid:
        raise ValueError(
            f'an image of {height}x{width} pixels cannot be cut into {grid}x{grid} equal crops; resize or pad '
            'images to multiples of the largest stride (32)'
        )
    patches = image.unflatten(3, (grid, -1)).unflatten(2, (grid, -1))
    return patches.transpose(3, 4).flatten(1, 3)


class InwardReference(BaseModule):
    """Image crops of a stage's size, embedded by two 3x3 convolutions with nothing between (Sec. 3.3, InRef).

    Args:
        grid: Crops per row and per column: the stage's stride.
        out_channels: Channels added to the stage's map.
        channels: Channels between the two convolutions.
        image_channels: Channels of the image.
    """

    def __init__(self, grid: int, out_channels: int, channels: int = 64, image_channels: int = 3) -> None:
        super().__init__()
        self.grid = grid
        self.conv_in = nn.Conv2d(image_channels * grid**2, channels, 3, padding=1)
        self.conv_out = nn.Conv2d(channels, out_channels, 3, padding=1)

    def forward(self, image: Tensor, size: tuple[int, int]) -> Tensor:
        """Image ``(N, 3, H, W)`` to features ``(N, out_channels, *size)``."""
        return self.conv_out(self.conv_in(resize(image_to_patches(image, self.grid), size)))


def inward_logits(inward: InwardReference, classifier: nn.Conv2d, image: Tensor) -> Tensor:
    """``classifier(inward(image))`` at the image's own size as one 5x5 convolution, without its hidden maps.

    The two 3x3 convolutions and the 1x1 one behind them are linear. Only on the outermost ring of pixels, where the map
    between the 3x3 convolutions is padded with zeros, do they run one after the other, on strips of three pixels.

    Args:
        inward: Inward reference of grid 1.
        classifier: 1x1 convolution of its features.
        image: ``(N, 3, H, W)``, at least 3x3 pixels.

    Returns:
        Logits ``(N, classifier.out_channels, H, W)``.
    """
    first, second = inward.conv_in, inward.conv_out
    outer = torch.einsum('om,mchw->ochw', classifier.weight[:, :, 0, 0], second.weight)
    bias = outer.sum((2, 3)) @ first.bias + classifier.weight[:, :, 0, 0] @ second.bias
    bias = bias if classifier.bias is None else bias + classifier.bias
    # Three times as fast on the CPU as with its three channels apart.
    interleaved = image.contiguous(memory_format=torch.channels_last)
    inner = F.conv2d(interleaved, F.conv_transpose2d(outer, first.weight), bias, padding=1)

    def ring(strip: Tensor) -> Tensor:
        return classifier(inward(strip, strip.shape[2:]))

    top, bottom = ring(image[..., :3, :])[..., :1, :], ring(image[..., -3:, :])[..., -1:, :]
    left, right = ring(image[..., :3])[..., 1:-1, :1], ring(image[..., -3:])[..., 1:-1, -1:]
    return torch.cat([top, torch.cat([left, inner, right], 3), bottom], 2)


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

    def forward(self, x: Tensor, supervised: bool | None = None) -> tuple[Tensor, Tensor | None]:
        """Map ``(N, C, H, W)`` to attention in [0, 1] and, if supervised, gradient logits, both ``(N, 1, H, W)``.

        ``supervised=None`` stands for the module's training mode.
        """
        supervised = self.training if supervised is None else supervised
        x = self.act(self.norm(self.conv(x)))
        gradient = self.gradient(x) if supervised and self.gradient is not None else None
        return self.attention(x).sigmoid(), gradient


def laplacian(image: Tensor) -> Tensor:
    """Laplacian of the channel mean of an image with a 5x5 kernel of unit absolute sum, ``(N, 1, H, W)``.

    The kernel is one everywhere and minus the sum of these in the middle; borders are reflected.
    """
    gray = image.mean(1, keepdim=True)
    kernel = gray.new_ones(1, 1, 5, 5)
    kernel[..., 2, 2] = -24
    return F.conv2d(F.pad(gray, (2, 2, 2, 2), mode='reflect'), kernel / kernel.abs().sum())


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
    enters as logits and is not detached. Computed in float32 at least, also under autocast.
    """
    side_logits = resize_float32(side_logits, image.shape[2:])
    with torch.autocast(image.device.type, enabled=False):
        return laplacian(image.to(side_logits.dtype)) * side_logits


def gradient_loss(gradient_logits: Tensor, target_logits: Tensor) -> Tensor:
    """Binary cross-entropy between the two probability maps, averaged over pixels, in float32 at least."""
    gradient_logits = resize_float32(gradient_logits, target_logits.shape[2:])
    return F.binary_cross_entropy_with_logits(gradient_logits, target_logits.to(gradient_logits.dtype).sigmoid())
