"""Compose cut-outs and images on new backgrounds from an image and its map."""

from __future__ import annotations

import os
from collections.abc import Iterable
from numbers import Integral
from pathlib import Path

import numpy as np
from PIL import Image, ImageColor, ImageOps

from mmbirefnet.imaging.color_profiles import convert_profile
from mmbirefnet.imaging.foreground import estimate_foreground
from mmbirefnet.imaging.maps import to_uint8
from mmbirefnet.imaging.read import LoadedImage, load_image
from mmbirefnet.utils.deprecation import warn_renamed

WHITE = (255, 255, 255)
OUTPUTS = ('mask', 'cutout', 'composite')
FORMER_OUTPUT = 'foreground'  # former name of 'composite'


def output_kind(name: str, stacklevel: int = 4) -> str:
    """Return the one of ``OUTPUTS`` that a name stands for; ``'foreground'`` is the former name of ``'composite'``.

    Args:
        name: Name that the user gave.
        stacklevel: Frame that the warning about the former name points to, as in :func:`warnings.warn`.

    Raises:
        ValueError: If there is no such output.
    """
    if name == FORMER_OUTPUT:
        warn_renamed(repr(FORMER_OUTPUT), "'composite'", stacklevel)
        return 'composite'
    if name not in OUTPUTS:
        raise ValueError(f'save={name!r}, must be one of {", ".join(OUTPUTS)}')
    return name


def compose(
    kind: str,
    image: LoadedImage,
    alpha: np.ndarray,
    background: LoadedImage | tuple[int, int, int] | None = None,
    *,
    estimate_foreground: bool = True,
    device=None,
) -> np.ndarray:
    """Build one output from an image and its predicted alpha.

    Args:
        kind: ``'mask'``, ``'cutout'`` or ``'composite'``.
        image: The image.
        alpha: Predicted alpha, float32 ``(H, W)`` in [0, 1].
        background: Image or sRGB color behind ``'composite'``, from :func:`read_background`; white if ``None``. It is
            converted to the image's color space.
        estimate_foreground: Whether to estimate the object's own colors where it is mixed with the old background.
        device: Torch device of that estimation; ``None`` uses OpenCV on the CPU.

    Returns:
        uint8: gray ``(H, W)`` for ``'mask'``, RGBA ``(H, W, 4)`` for ``'cutout'``, RGB ``(H, W, 3)`` for
        ``'composite'``.

    Raises:
        ValueError: If ``kind`` is unknown.
    """
    output_kind(kind)
    return compose_all((kind,), image, alpha, background, estimate_foreground=estimate_foreground, device=device)[kind]


def compose_all(
    kinds: Iterable[str],
    image: LoadedImage,
    alpha: np.ndarray,
    background: LoadedImage | tuple[int, int, int] | None = None,
    *,
    estimate_foreground: bool = True,
    device=None,
) -> dict[str, np.ndarray]:
    """Build several outputs like :func:`compose`, and estimate the foreground colors only once."""
    outputs, cutout = {}, None
    for kind in kinds:
        if kind == 'mask':
            outputs[kind] = to_uint8(alpha)
            continue
        if cutout is None:
            cutout = cut_out(image, alpha, estimate_foreground, device)
        if kind == 'cutout':
            outputs[kind] = cutout
        else:
            behind = fit_background(WHITE if background is None else background, image.size, image.icc_profile)
            outputs[kind] = composite(cutout, behind)
    return outputs


def cut_out(image: LoadedImage, soft_map: np.ndarray, estimate_colors: bool = True, device=None) -> np.ndarray:
    """Cut the object out: uint8 RGBA ``(H, W, 4)``. Transparent pixels of the image stay transparent.

    Where alpha is 0 the colors are set to 0, so that the file contains nothing of the old background.

    Args:
        image: The image.
        soft_map: Its predicted alpha, float32 ``(H, W)``.
        estimate_colors: Whether to estimate the object's own colors where it is mixed with the background.
        device: Torch device of that estimation; ``None`` uses OpenCV on the CPU.
    """
    alpha = opacity(image, soft_map)
    colors = estimate_foreground(image.rgb, alpha, device=device) if estimate_colors else image.rgb
    cutout = np.dstack([colors, np.rint(alpha * 255).astype(np.uint8)])
    cutout[cutout[..., 3] == 0] = 0
    return cutout


def opacity(image: LoadedImage, soft_map: np.ndarray) -> np.ndarray:
    """The map times the image's own alpha, float32 ``(H, W)``."""
    return soft_map if image.alpha is None else soft_map * (image.alpha.astype(np.float32) / 255)


def composite(cutout: np.ndarray, background: np.ndarray | tuple[int, int, int]) -> np.ndarray:
    """Put a cut-out on a background: uint8 ``(H, W, 3)``.

    Args:
        cutout: uint8 RGBA ``(H, W, 4)``.
        background: A color, or an image uint8 RGB ``(H, W, 3)``.
    """
    alpha = cutout[..., 3:].astype(np.float32) / 255
    behind = np.asarray(background, np.float32)
    return np.rint(behind + alpha * (cutout[..., :3] - behind)).astype(np.uint8)


def read_background(
    background, channel_order: str = 'bgr', max_pixels: int | None = None
) -> LoadedImage | tuple[int, int, int]:
    """Read a color or an image to put behind cut-outs.

    Args:
        background: Color as text, see :func:`parse_color`, (red, green, blue), or any source of :func:`load_image`;
            ``None`` for white.
        channel_order: Order of the channels of an array.
        max_pixels: Largest image, in pixels; see :func:`load_image`.

    Raises:
        ValueError: If it is neither an opaque color nor a file.
        OSError: If it is a file that cannot be read.
    """
    if background is None:
        return WHITE
    if isinstance(background, (tuple, list)):
        if len(background) != 3 or not all(isinstance(v, Integral) and 0 <= v <= 255 for v in background):
            raise ValueError(f'background={background!r}, a color must be three integers in 0..255')
        return tuple(int(v) for v in background)
    if isinstance(background, str) and not (background and Path(background).exists()):
        return parse_color(background)
    if isinstance(background, (str, os.PathLike)):
        background = Path(background)
    return load_image(background, channel_order=channel_order, max_pixels=max_pixels)


def parse_color(text: str) -> tuple[int, int, int]:
    """Parse a color in a CSS notation (``'#rrggbb'``, ``'rgb(…)'``, a name) to (red, green, blue) in 0..255.

    Raises:
        ValueError: If it is not a color, a value is out of range, or the color is not opaque.
    """
    try:
        color = ImageColor.getrgb(text)
    except ValueError as error:
        raise ValueError(f'background={text!r} is neither a color (#rrggbb, a name) nor a file') from error
    if not all(0 <= value <= 255 for value in color):
        raise ValueError(f'background={text!r}: a value is out of range; red, green and blue are 0 to 255')
    if color[3:] not in ((), (255,)):
        raise ValueError(
            f'background={text!r} is not opaque. Fix: give the color without alpha, or write the cut-out, which is '
            'already transparent'
        )
    return color[:3]


def fit_background(
    background: LoadedImage | tuple[int, int, int], size: tuple[int, int], icc_profile: bytes | None = None
) -> tuple[int, int, int] | np.ndarray:
    """Resize a background image to cover the size, and crop it around its center; a color is not resized.

    Args:
        background: The image, or a color in sRGB.
        size: (H, W) in pixels.
        icc_profile: RGB color profile to convert it to; ``None`` for sRGB.
    """
    if not isinstance(background, LoadedImage):
        if icc_profile is None:
            return background
        return Image.fromarray(convert_profile(np.uint8([[background]]), None, icc_profile)).getpixel((0, 0))
    image = Image.fromarray(background.visible())
    pixels = np.asarray(ImageOps.fit(image, size[::-1], Image.Resampling.LANCZOS))
    return convert_profile(pixels, background.icc_profile, icc_profile)
