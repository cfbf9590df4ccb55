"""The frames of animations and the pages of TIFF files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from mmbirefnet.imaging.file_structure import read_png_exif
from mmbirefnet.imaging.read import (
    MAX_PIXELS,
    LoadedImage,
    LoadedSequence,
    TooManyPixelsError,
    check_tile,
    image_from_pil,
    load_open_image,
    named_errors,
    open_image,
    open_source,
)

MAX_FRAMES = 2000  # largest number of frames of an animation, or pages of a file
# Further images in a JPEG, HEIF or PSD file are previews, other views or layers; those in an icon are other sizes.
_SEQUENCE_FORMATS = ('GIF', 'PNG', 'WEBP', 'AVIF', 'TIFF')
_SUBFILE_TYPE, _REDUCED_OR_MASK = 254, 0b101  # TIFF tag, and its bits for thumbnails and masks of other pages


def load_frames(
    source: str | os.PathLike | bytes, name: str | None = None, max_pixels: int | None = None
) -> LoadedImage | LoadedSequence:
    """Read all frames of an animation (GIF, PNG, WebP, AVIF) or all pages of a TIFF file.

    Every frame is complete: frames that are stored as changes of the previous one are composed. The default image of a
    PNG that is not part of its animation, and the thumbnails and masks of a TIFF, are skipped.

    Args:
        source: Path, or bytes of a file.
        name: Name in messages.
        max_pixels: Largest number of pixels of all frames together; ``None`` for Pillow's limit.

    Returns:
        The sequence; for a file with one frame, the image that :func:`~mmbirefnet.imaging.read.load_image` returns.

    Raises:
        OSError, ValueError: As :func:`~mmbirefnet.imaging.read.load_image`.
    """
    path = None if isinstance(source, bytes) else Path(source)
    name = name or str(path or 'bytes')
    with open_source(source) as file:
        frames, durations, plays = zip(*iter_frames(file, name, path, max_pixels))
    return as_sequence(frames, durations, plays[0], name, path)


def as_sequence(frames, durations, plays: int, name: str, path: Path | None) -> LoadedImage | LoadedSequence:
    """Join the frames of :func:`iter_frames` to a sequence; one frame is an image."""
    if len(frames) == 1:
        return frames[0]
    return LoadedSequence(list(frames), None if durations[0] is None else list(durations), plays, name, path)


def iter_frames(
    file, name: str, path: Path | None = None, max_pixels: int | None = None, allocate: Callable = np.empty
) -> Iterator[tuple[LoadedImage, float | None, int]]:
    """Yield each frame of an open file, its duration in milliseconds, and the number of plays of the animation.

    Args:
        allocate: As in :func:`~mmbirefnet.imaging.read.load_open_image`.
    """
    with named_errors(name), open_image(file, name, max_pixels) as image:
        indices = _frame_indices(image, name, max_pixels)
        if len(indices) > 1:
            if image.format == 'PNG':
                read_png_exif(image, name)
            for index in indices:
                image.seek(index)
                frame = image_from_pil(image, name, path, max_pixels)  # some plugins set the duration as they decode
                yield frame, None if image.format == 'TIFF' else float(image.info.get('duration', 0)), _plays(image)
            return
    file.seek(0)
    yield load_open_image(file, name, path, max_pixels, allocate), None, 0


def count_frames(file, name: str, max_pixels: int | None = None) -> int:
    """Count the frames or pages that :func:`iter_frames` yields, from the headers of an open file; same errors."""
    with named_errors(name), open_image(file, name, max_pixels) as image:
        return len(_frame_indices(image, name, max_pixels))


def _frame_indices(image: Image.Image, name: str, max_pixels: int | None) -> list[int]:
    """Indices of the frames that :func:`iter_frames` yields."""
    if image.format not in _SEQUENCE_FORMATS or not getattr(image, 'is_animated', False):
        return [0]
    if image.n_frames > MAX_FRAMES:
        raise TooManyPixelsError(f'{name}: {image.n_frames} frames; at most {MAX_FRAMES} are read')
    indices = list(range(int(getattr(image, 'default_image', False)), image.n_frames))
    pixels = len(indices) * image.width * image.height
    if image.format == 'TIFF':
        indices, pixels = [], 0
        for index in range(image.n_frames):
            image.seek(index)
            if not indices or not image.tag_v2.get(_SUBFILE_TYPE, 0) & _REDUCED_OR_MASK:
                check_tile(image, name)
                indices.append(index)
                pixels += image.width * image.height
        image.seek(0)
    if pixels > (limit := MAX_PIXELS if max_pixels is None else max_pixels):
        raise TooManyPixelsError(
            f'{name}: {len(indices)} frames have {pixels} pixels together, more than the limit of {limit} (max_pixels, '
            "--max-pixels). Fix: read only the first one (frames='first', --frames first)"
        )
    return indices


def _plays(image: Image.Image) -> int:
    """Number of plays of an animation; a GIF file stores the number of repetitions after the first play."""
    loop = image.info.get('loop')
    if image.format == 'GIF':
        return 1 if loop is None else loop and loop + 1
    return loop or 0
