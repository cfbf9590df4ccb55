"""Bilinear resizing with aligned corners, the only kind in the network."""

import torch
import torch.nn.functional as F
from torch import Tensor


def resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear resize with aligned corners, as everywhere in the reference.

    Args:
        x: Map, ``(N, C, H, W)``.
        size: Target (H, W) in pixels; a map of this size is returned unchanged.
    """
    if tuple(x.shape[2:]) == tuple(size):
        return x
    return F.interpolate(x, size=tuple(size), mode='bilinear', align_corners=True)


def resize_float32(x: Tensor, size: tuple[int, int]) -> Tensor:
    """:func:`resize` in float32 (float64 for float64 maps), also under autocast; for logits of a loss."""
    return resize(x.to(torch.promote_types(x.dtype, torch.float32)), size)
