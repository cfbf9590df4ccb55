"""Estimate foreground colors from an image and its alpha, so that a cut-out has no fringe of the old background.

The method is blur-fusion (Forte, "Approximate Fast Foreground Color Estimation", ICIP 2021).
"""

from __future__ import annotations

import itertools
from types import ModuleType

import cv2
import numpy as np

SIDES = (90, 6)  # sides of the box blur in the first and the second pass, in pixels
EPS = 1e-5
TILE = 1024  # side of a tile, in pixels; processing one tile at a time bounds memory to about 120 MiB


def estimate_foreground(image: np.ndarray, alpha: np.ndarray, sides: tuple[int, ...] = SIDES, device=None):
    r"""Estimate the colors F of the foreground in I = alpha F + (1 - alpha) B, in two passes.

    Each pass blurs the estimates of foreground and background, weighted with alpha and 1 - alpha, and adds to the
    foreground its share of the residual of the mixture (Eqs. 3 to 6 of Forte, 2021): first with a large box, then with
    a small one. Blurs end at the image's border.

    Args:
        image: uint8 ``(H, W, 3)``, channels in any order, or float32 in [0, 1].
        alpha: float32 ``(H, W)`` in [0, 1], or uint8.
        sides: Sides of the box blur in pixels, one for each pass.
        device: Torch device of the computation, for example ``'cuda'``; ``None`` for OpenCV on the CPU.

    Returns:
        Array with the dtype and shape of the image. Where alpha is 1, it equals the image.

    Raises:
        ValueError: If image and alpha differ in size, or have another dtype.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.shape[:2] != alpha.shape:
        raise ValueError(f'image must be (H, W, 3) and alpha (H, W), not {image.shape} and {alpha.shape}')
    if image.dtype not in (np.uint8, np.float32) or alpha.dtype not in (np.uint8, np.float32):
        raise ValueError(f'image and alpha must be uint8 or float32, not {image.dtype} and {alpha.dtype}')
    estimate = _estimate_opencv if device is None else _estimate_torch
    # Pixels farther away than the sum of the blur radii do not affect a tile.
    reach = sum(side // 2 for side in sides)
    result = np.empty_like(image)
    for top, left in itertools.product(range(0, image.shape[0], TILE), range(0, image.shape[1], TILE)):
        y, x = max(0, top - reach), max(0, left - reach)
        part = slice(y, top + TILE + reach), slice(x, left + TILE + reach)
        pixels, opacity = (v[part].astype(np.float32) / 255 if v.dtype == np.uint8 else v[part] for v in (image, alpha))
        foreground = estimate(pixels, opacity[..., None], sides, device)[top - y :, left - x :][:TILE, :TILE]
        result[top : top + TILE, left : left + TILE] = (
            np.rint(foreground * 255) if image.dtype == np.uint8 else foreground
        )
    return result


def _fuse(image, foreground, background, alpha, blur):
    """Run one pass, on NumPy arrays or torch tensors.

    Returns:
        The foreground, and the blurred background.
    """
    opaque, clear = blur(alpha), blur(1 - alpha)
    foreground = blur(foreground * alpha) / (opaque + EPS)
    background = blur(background * (1 - alpha)) / (clear + EPS)
    return foreground + alpha * (image - alpha * foreground - (1 - alpha) * background), background


def _estimate_opencv(image: np.ndarray, alpha: np.ndarray, sides: tuple[int, ...], device: None) -> np.ndarray:
    foreground = background = image
    for side in sides:

        def blur(x: np.ndarray, side: int = side) -> np.ndarray:
            return cv2.blur(x, (side, side), borderType=cv2.BORDER_CONSTANT).reshape(x.shape)

        foreground, background = _fuse(image, foreground, background, alpha, blur)
        foreground = np.clip(foreground, 0, 1)
    return foreground


def _estimate_torch(image: np.ndarray, alpha: np.ndarray, sides: tuple[int, ...], device) -> np.ndarray:
    import torch

    image, alpha = (torch.from_numpy(x.transpose(2, 0, 1)[None]).to(device) for x in (image, alpha))
    foreground = background = image
    for side in sides:
        foreground, background = _fuse(
            image, foreground, background, alpha, lambda x, side=side: _box_blur(torch.nn.functional, x, side)
        )
        foreground = foreground.clamp(0, 1)
    return foreground[0].permute(1, 2, 0).cpu().numpy()


def _box_blur(functional: ModuleType, x, side: int):
    """``cv2.blur`` with zeros around the image, of a tensor ``(1, C, H, W)``."""
    before, after = side // 2, side - 1 - side // 2
    x = functional.avg_pool2d(functional.pad(x, (before, after, 0, 0)), (1, side), 1)
    return functional.avg_pool2d(functional.pad(x, (0, 0, before, after)), (side, 1), 1)
