"""Encode animations and multi-page files, with complete frames and their durations."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

ANIMATIONS = {'GIF': 10, 'WEBP': 1, 'PNG': 1, 'AVIF': 1}  # unit of time in milliseconds, by Pillow's name of the format
GIF_OPAQUE = 128  # smallest alpha of opaque pixels in GIF, whose pixels are opaque or transparent
_TRANSPARENT = 255  # index of the transparent color in the palette
_WEBP_FLAGS, _WEBP_ALPHA = 20, 0x10  # offset of the flags in an animated file, and alpha bit (WebP container, VP8X)


def encode_sequence(
    frames: Sequence[np.ndarray],
    codec: str,
    options: dict,
    durations: Sequence[float] | None = None,
    plays: int = 0,
    icc_profiles: Sequence[bytes | None] = (),
) -> bytes:
    """Encode an animation, or the pages of a TIFF file.

    Each frame replaces the previous one completely, so that no frame shows through transparent pixels of the next.
    Consecutive equal frames become one frame with the sum of their durations.

    Args:
        frames: uint8 arrays as for :func:`~mmbirefnet.imaging.write.encode_image`; those of an animation have one
            shape.
        codec: ``'TIFF'``, or a key of ``ANIMATIONS``. A GIF has 256 colors per frame, and alpha becomes 0 below 128,
            otherwise 255.
        options: Options of Pillow's ``save``.
        durations: Duration of each frame in milliseconds. Cumulative sums are rounded to the unit of the format, so
            that rounding errors do not add up.
        plays: Number of plays of an animation; 0 for endless. AVIF cannot store it.
        icc_profiles: Color profile of each frame.
    """
    images = [to_palette(pixels) if codec == 'GIF' else Image.fromarray(pixels) for pixels in frames]
    for image, profile in zip(images, icc_profiles):
        if profile:
            image.info['icc_profile'] = profile
    options = dict(options, save_all=True, append_images=images[1:])
    if codec != 'TIFF':
        options['duration'] = _rounded([0] * len(frames) if durations is None else durations, ANIMATIONS[codec])
        if codec == 'GIF':
            options |= dict(disposal=2, optimize=False)  # 2: the canvas is cleared before the next frame
            options |= {} if plays == 1 else dict(loop=max(0, plays - 1))
        elif codec == 'PNG':
            options |= dict(disposal=0, blend=0, loop=plays)  # 0: the next frame replaces this one
        elif codec == 'WEBP':
            options['loop'] = plays
    file = io.BytesIO()
    images[0].save(file, codec, **options)
    content = bytearray(file.getvalue())
    if codec == 'WEBP' and any(pixels.ndim == 3 and pixels.shape[2] == 4 for pixels in frames):
        # libwebp stores only the changed part of each frame, and marks the file as opaque if all these are opaque.
        content[_WEBP_FLAGS] |= _WEBP_ALPHA
    return bytes(content)


def to_palette(pixels: np.ndarray) -> Image.Image:
    """Convert to a palette image for GIF: 256 colors, or 255 and a transparent one. Gray images are not converted.

    Colors are exact if the image has no more than that; otherwise a median cut chooses them.
    """
    if pixels.ndim == 2:
        return Image.fromarray(pixels)
    if pixels.shape[2] == 3:
        return Image.fromarray(pixels).quantize(256)
    clear = pixels[..., 3] < GIF_OPAQUE
    image = Image.fromarray(np.where(clear[..., None], 0, pixels[..., :3]).astype(np.uint8)).quantize(_TRANSPARENT)
    indices = np.array(image)
    indices[clear] = _TRANSPARENT
    palette = np.zeros((256, 3), np.uint8)
    colors = np.array(image.getpalette(), np.uint8).reshape(-1, 3)[:_TRANSPARENT]
    palette[: len(colors)] = colors
    image = Image.fromarray(indices)
    image.putpalette(palette.tobytes())
    image.info['transparency'] = _TRANSPARENT
    return image


def _rounded(durations: Sequence[float], unit: int) -> list[int]:
    """Round durations to multiples of a unit; cumulative sums change by at most half a unit."""
    ends = np.rint(np.cumsum(durations) / unit) * unit
    return np.diff(ends, prepend=0).astype(int).tolist()
