"""The inward reference of Zheng et al., 2024: the image itself, at its own resolution, for every decoder stage."""

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
