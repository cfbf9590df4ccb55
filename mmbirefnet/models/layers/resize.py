"""The one kind of resize in the network."""

import torch.nn.functional as F
from torch import Tensor


def resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear resize with aligned corners, as everywhere in the reference.

    Args:
        x: Map, ``(N, C, H, W)``.
        size: Wanted (H, W) in pixels; a map that has it already comes back as it is.
    """
    if tuple(x.shape[2:]) == tuple(size):
        return x
    return F.interpolate(x, size=tuple(size), mode='bilinear', align_corners=True)
