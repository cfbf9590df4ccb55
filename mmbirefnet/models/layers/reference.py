"""Bilateral reference of Zheng et al., 2024 (Sec. 3.3): inward to the image, outward to its gradients."""

import torch
import torch.nn.functional as F
from mmcv.cnn import build_norm_layer
from mmengine.model import BaseModule
from torch import Tensor, nn

from .resize import resize, resize_float32


def image_to_patches(image: Tensor, grid: int) -> Tensor:
    """Cut an image into ``grid x grid`` crops and stack them as channels, without losing a pixel.

    Args:
        image: ``(N, C, H, W)``, H and W multiples of ``grid``.
        grid: Crops per row and per column.

    Returns:
        ``(N, C * grid * grid, H / grid, W / grid)``, channels in the order (channel, grid row, grid column).

    Raises:
        ValueError: If height or width is not a multiple of ``grid``.
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
    """Crops of the image in the size of a stage, embedded by two 3x3 convolutions without activation (Sec. 3.3, InRef).

    Args:
        grid: Crops per row and per column, equal to the stride of the stage.
        out_channels: Channels that are added to the map of the stage.
        channels: Channels between the two convolutions.
        image_channels: Channels of the image.
    """

    def __init__(self, grid: int, out_channels: int, channels: int = 64, image_channels: int = 3) -> None:
        super().__init__()
        self.grid = grid
        self.conv_in = nn.Conv2d(image_channels * grid**2, channels, 3, padding=1)
        self.conv_out = nn.Conv2d(channels, out_channels, 3, padding=1)

    def forward(self, image: Tensor, size: tuple[int, int]) -> Tensor:
        """Convert an image ``(N, 3, H, W)`` to features ``(N, out_channels, *size)``."""
        return self.conv_out(self.conv_in(resize(image_to_patches(image, self.grid), size)))


def inward_logits(inward: InwardReference, classifier: nn.Conv2d, image: Tensor) -> Tensor:
    """Compute ``classifier(inward(image))`` at the size of the image as one 5x5 convolution, without its hidden maps.

    The two 3x3 convolutions and the 1x1 convolution are linear, so their product is one convolution. On the outermost
    ring of pixels, where the hidden map is padded with zeros, they run one after the other, on strips of three pixels.

    Args:
        inward: Inward reference with a grid of 1.
        classifier: 1x1 convolution of its features.
        image: Normalized image, ``(N, 3, H, W)``, at least 3x3 pixels.

    Returns:
        Logits ``(N, classifier.out_channels, H, W)``.
    """
    first, second = inward.conv_in, inward.conv_out
    outer = torch.einsum('om,mchw->ochw', classifier.weight[:, :, 0, 0], second.weight)
    bias = outer.sum((2, 3)) @ first.bias + classifier.weight[:, :, 0, 0] @ second.bias
    bias = bias if classifier.bias is None else bias + classifier.bias
    # Channels-last is three times as fast on the CPU.
    interleaved = image.contiguous(memory_format=torch.channels_last)
    inner = F.conv2d(interleaved, F.conv_transpose2d(outer, first.weight), bias, padding=1)

    def ring(strip: Tensor) -> Tensor:
        return classifier(inward(strip, strip.shape[2:]))

    top, bottom = ring(image[..., :3, :])[..., :1, :], ring(image[..., -3:, :])[..., -1:, :]
    left, right = ring(image[..., :3])[..., 1:-1, :1], ring(image[..., -3:])[..., 1:-1, -1:]
    return torch.cat([top, torch.cat([left, inner, right], 3), bottom], 2)


class OutwardReference(BaseModule):
    """Gradient-aware attention of a decoder stage (Sec. 3.3, OutRef).

    Args:
        in_channels: Channels of the map of the stage.
        channels: Channels of the features that predict gradient and attention.
        predict_gradient: Whether to build the layer that predicts the gradient map in training.
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
        """Compute the attention in [0, 1] and, if supervised, the gradient logits, both ``(N, 1, H, W)``.

        Args:
            x: Map, ``(N, in_channels, H, W)``.
            supervised: Whether to predict the gradient; ``None`` for the mode of the module.
        """
        supervised = self.training if supervised is None else supervised
        x = self.act(self.norm(self.conv(x)))
        gradient = self.gradient(x) if supervised and self.gradient is not None else None
        return self.attention(x).sigmoid(), gradient


def laplacian(image: Tensor) -> Tensor:
    """Laplacian of the channel mean of an image ``(N, C, H, W)``, ``(N, 1, H, W)``.

    The 5x5 kernel is 1, and -24 in the center, divided by 48, the sum of its absolute values. Borders are reflected.
    """
    gray = image.mean(1, keepdim=True)
    kernel = gray.new_ones(1, 1, 5, 5)
    # Assigning -24 would put a tensor on the CPU into compiled models, and CUDA graphs cannot contain one.
    kernel[..., 2, 2].fill_(-24)
    return F.conv2d(F.pad(gray, (2, 2, 2, 2), mode='reflect'), kernel / kernel.abs().sum())


def log_odds(logits: Tensor, background: int | None = None) -> Tensor:
    """Convert logits of several classes to foreground logits, the input of :func:`gradient_target`.

    With a background class, they are the log-odds of all other classes together. For two classes, that is the
    difference of the logits, so a softmax of two and a sigmoid of one have the same targets. Without a background
    class, every pixel belongs to an object, and they are the log-odds of its most probable class.

    Args:
        logits: Logits of a softmax, ``(N, K, H, W)``; logits of a sigmoid (K = 1) are returned unchanged.
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
    """Target of the gradient prediction of a stage, as logits ``(N, 1, H, W)`` at the size of the image.

    It is the Laplacian of the image times the logits of the side output of the stage. As in the reference
    implementation, the target is not detached. Computed in float32 at least, also under autocast.

    Args:
        image: Normalized image, ``(N, 3, H, W)``.
        side_logits: Logits of the side output, ``(N, 1, h, w)``.
    """
    side_logits = resize_float32(side_logits, image.shape[2:])
    with torch.autocast(image.device.type, enabled=False):
        return laplacian(image.to(side_logits.dtype)) * side_logits


def gradient_loss(gradient_logits: Tensor, target_logits: Tensor) -> Tensor:
    """Binary cross-entropy between the sigmoids of prediction and target, averaged over pixels, in float32 at least.

    Args:
        gradient_logits: Predicted gradient, ``(N, 1, h, w)``; resized to the target.
        target_logits: Result of :func:`gradient_target`, ``(N, 1, H, W)``.
    """
    gradient_logits = resize_float32(gradient_logits, target_logits.shape[2:])
    return F.binary_cross_entropy_with_logits(gradient_logits, target_logits.to(gradient_logits.dtype).sigmoid())
