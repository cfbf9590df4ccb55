"""Cut-outs and new backgrounds, made of a picture and its map."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PIL import Image, ImageColor, ImageOps

from mmbirefnet.imaging.foreground import estimate_foreground
from mmbirefnet.imaging.read import Picture, read_picture


def cut_out(picture: Picture, soft_map: np.ndarray, foreground: bool = True, device=None) -> np.ndarray:
    """The object alone, uint8 RGBA ``(H, W, 4)``; what is transparent in the picture stays so.

    Args:
        picture: The picture.
        soft_map: Its map, float32 ``(H, W)``.
        foreground: Estimate the object's own colours where it is mixed with the background.
        device: Where torch estimates them; ``None`` for OpenCV on the CPU.
    """
    alpha = opacity(picture, soft_map)
    colors = estimate_foreground(picture.rgb, alpha, device=device) if foreground else picture.rgb
    return np.dstack([colors, np.rint(alpha * 255).astype(np.uint8)])


def opacity(picture: Picture, soft_map: np.ndarray) -> np.ndarray:
    """The map, less what is transparent in the picture, float32 ``(H, W)``."""
    return soft_map if picture.alpha is None else soft_map * (picture.alpha.astype(np.float32) / 255)


def composite(cutout: np.ndarray, background: np.ndarray | tuple[int, int, int]) -> np.ndarray:
    """A cut-out on a background, uint8 ``(H, W, 3)``.

    Args:
        cutout: uint8 RGBA ``(H, W, 4)``.
        background: A colour, or a picture uint8 RGB ``(H, W, 3)``.
    """
    alpha = cutout[..., 3:].astype(np.float32) / 255
    behind = np.asarray(background, np.float32)
    return np.rint(behind + alpha * (cutout[..., :3] - behind)).astype(np.uint8)


def read_background(background, channel_order: str = 'bgr') -> Picture | tuple[int, int, int]:
    """A colour or a picture to be put behind cut-outs.

    Args:
        background: Colour name or ``'#rrggbb'``, (red, green, blue), or whatever :func:`read_picture` takes; ``None``
            for white.
        channel_order: Of an array.

    Raises:
        ValueError: It is neither a colour nor a file.
        OSError: It is a file that cannot be read.
    """
    if background is None:
        return 255, 255, 255
    if isinstance(background, (tuple, list)):
        if len(background) != 3 or not all(isinstance(v, int) and 0 <= v <= 255 for v in background):
            raise ValueError(f'background={background!r}, a colour must be three integers in 0..255')
        return tuple(background)
    if isinstance(background, str) and not Path(background).exists():
        try:
            return ImageColor.getrgb(background)[:3]
        except ValueError as error:
            raise ValueError(f'background={background!r} is neither a colour (#rrggbb, a name) nor a file') from error
    if isinstance(background, (str, os.PathLike)):
        background = Path(background)
    return read_picture(background, channel_order=channel_order)


def fit_background(background: Picture | tuple[int, int, int], size: tuple[int, int]):
    """The background at size (H, W): a picture covers it, its centre kept; a colour is returned as it is."""
    if not isinstance(background, Picture):
        return background
    image = Image.fromarray(background.visible())
    return np.asarray(ImageOps.fit(image, size[::-1], Image.Resampling.LANCZOS))
