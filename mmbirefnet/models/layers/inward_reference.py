"""The inward reference of Zheng et al., 2024: the image itself, at its own resolution, for every decoder stage."""

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor, nn

from .resize import resize


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
