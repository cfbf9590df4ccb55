"""Cut-outs and new backgrounds, made of an image and its map."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PIL import Image, ImageColor, ImageOps

from mmbirefnet.imaging.foreground import estimate_foreground
from mmbirefnet.imaging.maps import to_uint8
from mmbirefnet.imaging.read import LoadedImage, load_image

WHITE = (255, 255, 255)
KINDS = ('mask', 'cutout', 'foreground')


def compose(
    kind: str,
    image: LoadedImage,
    alpha: np.ndarray,
    background: LoadedImage | tuple[int, int, int] | None = None,
    *,
    estimate_foreground: bool = True,
    device=None,
) -> np.ndarray:
    """Build one output from an image and its predicted alpha; every writer, the video job and the service use this.

    Args:
        kind: ``'mask'``, ``'cutout'`` or ``'foreground'``.
        image: The image.
        alpha: Predicted alpha, float32 ``(H, W)`` in [0, 1].
        background: What is put behind ``'foreground'``, from :func:`read_background`; white if ``None``.
        estimate_foreground: Whether to estimate the colors of the object where it is mixed with the old background.
        device: Torch device of that estimation; ``None`` uses OpenCV on the CPU.

    Returns:
        uint8: gray ``(H, W)`` for ``'mask'``, RGBA ``(H, W, 4)`` for ``'cutout'``, RGB ``(H, W, 3)`` for
        ``'foreground'``.
    """
    if kind == 'mask':
        return to_uint8(alpha)
    cutout = cut_out(image, alpha, estimate_foreground, device)
    if kind == 'cutout':
        return cutout
    return composite(cutout, fit_background(WHITE if background is None else background, image.size))


def cut_out(image: LoadedImage, soft_map: np.ndarray, foreground: bool = True, device=None) -> np.ndarray:
    """The object alone, uint8 RGBA ``(H, W, 4)``; what is transparent in the image stays so.

    Args:
        image: The image.
        soft_map: Its map, float32 ``(H, W)``.
        foreground: Estimate the object's own colors where it is mixed with the background.
        device: Where torch estimates them; ``None`` for OpenCV on the CPU.
    """
    alpha = opacity(image, soft_map)
    colors = estimate_foreground(image.rgb, alpha, device=device) if foreground else image.rgb
    return np.dstack([colors, np.rint(alpha * 255).astype(np.uint8)])


def opacity(image: LoadedImage, soft_map: np.ndarray) -> np.ndarray:
    """The map, less what is transparent in the image, float32 ``(H, W)``."""
    return soft_map if image.alpha is None else soft_map * (image.alpha.astype(np.float32) / 255)


def composite(cutout: np.ndarray, background: np.ndarray | tuple[int, int, int]) -> np.ndarray:
    """A cut-out on a background, uint8 ``(H, W, 3)``.

    Args:
        cutout: uint8 RGBA ``(H, W, 4)``.
        background: A color, or an image uint8 RGB ``(H, W, 3)``.
    """
    alpha = cutout[..., 3:].astype(np.float32) / 255
    behind = np.asarray(background, np.float32)
    return np.rint(behind + alpha * (cutout[..., :3] - behind)).astype(np.uint8)


def read_background(background, channel_order: str = 'bgr') -> LoadedImage | tuple[int, int, int]:
    """A color or an image to be put behind cut-outs.

    Args:
        background: Color name or ``'#rrggbb'``, (red, green, blue), or whatever :func:`load_image` takes; ``None``
            for white.
        channel_order: Of an array.

    Raises:
        ValueError: It is neither a color nor a file.
        OSError: It is a file that cannot be read.
    """
    if background is None:
        return WHITE
    if isinstance(background, (tuple, list)):
        if len(background) != 3 or not all(isinstance(v, int) and 0 <= v <= 255 for v in background):
            raise ValueError(f'background={background!r}, a color must be three integers in 0..255')
        return tuple(background)
    if isinstance(background, str) and not Path(background).exists():
        try:
            return ImageColor.getrgb(background)[:3]
        except ValueError as error:
            raise ValueError(f'background={background!r} is neither a color (#rrggbb, a name) nor a file') from error
    if isinstance(background, (str, os.PathLike)):
        background = Path(background)
    return load_image(background, channel_order=channel_order)


def fit_background(background: LoadedImage | tuple[int, int, int], size: tuple[int, int]):
    """The background at size (H, W): an image covers it, its centre kept; a color is returned as it is."""
    if not isinstance(background, LoadedImage):
        return background
    image = Image.fromarray(background.visible())
    return np.asarray(ImageOps.fit(image, size[::-1], Image.Resampling.LANCZOS))
