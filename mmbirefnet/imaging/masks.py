"""Masks in files: one for all images, or a folder with one for each."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from mmbirefnet.imaging.formats import IMAGE_SUFFIXES
from mmbirefnet.imaging.frames import load_frames
from mmbirefnet.imaging.maps import to_uint8
from mmbirefnet.imaging.read import LoadedImage, LoadedSequence, load_image
from mmbirefnet.imaging.sources import Source

if TYPE_CHECKING:
    from mmbirefnet.imaging.sandbox import ImageDecoder

ASPECT_TOLERANCE = 0.01  # largest relative difference between the aspect ratios of an image and a mask of another size


class MaskFiles:
    """Reads the mask of an image.

    A mask is a gray image, or the alpha of an image with transparency, such as a cut-out. A mask of another size is
    resized to the image.

    Args:
        masks: Mask for all images, in any form that :func:`~mmbirefnet.imaging.read.load_image` accepts; or a folder,
            in which each mask has the relative path of its image, with any suffix.
        decoder: Reads files in worker processes; ``None`` reads them in this process.
        channel_order: Order of the channels of a mask that is an array with colors.

    Raises:
        FileNotFoundError: If there is no such file or folder.
    """

    def __init__(self, masks, decoder: ImageDecoder | None = None, channel_order: str = 'bgr') -> None:
        self.masks, self.decoder, self.channel_order = masks, decoder, channel_order
        self.name = 'mask'
        if isinstance(masks, (str, os.PathLike)):
            self.masks, self.name = Path(masks), str(masks)
            if not self.masks.exists():
                raise FileNotFoundError(f'{masks}: no such file or folder of masks')

    def maps(self, source: Source, image: LoadedImage | LoadedSequence) -> list[np.ndarray]:
        """Return the mask of each frame of an image, float32 ``(H, W)`` in [0, 1] at the size of the image.

        A sequence has one mask for all frames, or a sequence of masks.

        Raises:
            OSError: If the mask is missing or cannot be read.
            ValueError: If there are several masks, or the mask does not fit the image.
        """
        mask = self._read(source)
        masks = mask.frames if isinstance(mask, LoadedSequence) else [mask]
        if not isinstance(image, LoadedSequence):
            return [_fit(masks[0], image)]
        masks = masks * len(image.frames) if len(masks) == 1 else masks
        if len(masks) != len(image.frames):
            raise ValueError(f'{mask.name}: {len(masks)} frames, but {image.name} has {len(image.frames)}')
        return [_fit(mask, frame) for mask, frame in zip(masks, image.frames)]

    def attach(self, source: Source, image: LoadedImage | LoadedSequence) -> LoadedImage | LoadedSequence:
        """Return the image with the mask as its coarse mask (``guide``).

        Raises:
            OSError, ValueError: As :meth:`maps`.
        """
        guides = [to_uint8(soft_map) for soft_map in self.maps(source, image)]
        if not isinstance(image, LoadedSequence):
            return replace(image, guide=guides[0])
        return replace(image, frames=[replace(frame, guide=guide) for frame, guide in zip(image.frames, guides)])

    def _read(self, source: Source) -> LoadedImage | LoadedSequence:
        content = self.masks
        if isinstance(content, Path) and content.is_dir():
            content = self._find(content, source)
        if isinstance(content, (Path, bytes)):
            return load_frames(content) if self.decoder is None else self.decoder.read(content, frames='all')
        return load_image(content, 'mask', self.channel_order)

    def _find(self, folder: Path, source: Source) -> Path:
        """Find the mask with the same relative path and stem; if there are several, the one with the same suffix."""
        stem = folder / source.key.with_suffix('')
        found = sorted(
            path
            for path in (stem.parent.iterdir() if stem.parent.is_dir() else ())
            if path.stem == stem.name and path.suffix.lower() in IMAGE_SUFFIXES
        )
        if len(found) > 1:
            found = [path for path in found if path.suffix == source.key.suffix] or found
        if not found:
            raise FileNotFoundError(f'{source.name}: no mask {stem}.*')
        if len(found) > 1:
            raise ValueError(f'{source.name}: several masks: {", ".join(map(str, found))}. Fix: keep only one of them')
        return found[0]


def _fit(mask: LoadedImage, image: LoadedImage) -> np.ndarray:
    levels = cv2.cvtColor(mask.rgb, cv2.COLOR_RGB2GRAY) if mask.alpha is None else mask.alpha
    soft_map = levels.astype(np.float32) / 255
    if mask.size == image.size:
        return soft_map
    (h, w), (height, width) = mask.size, image.size
    if abs(h * width / (w * height) - 1) > ASPECT_TOLERANCE:
        raise ValueError(
            f'{mask.name}: a mask of {w}x{h} pixels does not fit {image.name} of {width}x{height}. Fix: give a '
            'mask of the same size or aspect ratio, upright as the image is shown'
        )
    interpolation = cv2.INTER_AREA if h > height else cv2.INTER_LINEAR
    return cv2.resize(soft_map, (width, height), interpolation=interpolation)
