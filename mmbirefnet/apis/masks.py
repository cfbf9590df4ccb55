"""Masks of one's own in place of a model's predictions."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np

from mmbirefnet.apis.inferencer import BiRefNetInferencer
from mmbirefnet.imaging.formats import IMAGE_SUFFIXES
from mmbirefnet.imaging.maps import crop_of_box, process_map
from mmbirefnet.imaging.read import LoadedImage, LoadedSequence, load_frames, load_image
from mmbirefnet.imaging.refine import refine_map
from mmbirefnet.imaging.sandbox import ImageDecoder
from mmbirefnet.imaging.settings import Settings
from mmbirefnet.imaging.sources import Source

ASPECT_TOLERANCE = 0.01  # relative difference of the aspect ratios of an image and a smaller or larger mask


class MaskInferencer(BiRefNetInferencer):
    """Takes maps from files: everything that a :class:`BiRefNetInferencer` does around a model, without one.

    A mask is an image: its gray level is the alpha, or, of a file with transparency such as a cut-out, its opacity. One
    of another size is resized, bilinearly. The operations on the map that :class:`Settings` documents are applied.

    Args:
        masks: Mask for all images, as :func:`~mmbirefnet.imaging.read.load_image` takes it; or a folder, where each
            image's mask has its path below the folder of the images, with any suffix.
        decoder: Reads files in worker processes; ``None`` reads them in this process.
        channel_order: Of a mask that is an array with colors.

    Raises:
        FileNotFoundError: If there is no such file or folder.
    """

    def __init__(self, masks, decoder: ImageDecoder | None = None, channel_order: str = 'bgr') -> None:
        self.masks, self.decoder, self.channel_order = masks, decoder, channel_order
        if isinstance(masks, (str, os.PathLike)):
            self.masks = Path(masks)
            if not self.masks.exists():
                raise FileNotFoundError(f'{masks}: no such file or folder of masks')
        name = str(masks) if isinstance(masks, (str, os.PathLike)) else 'mask'
        self.backend = SimpleNamespace(name=name)

    def input_sizes(self, image: LoadedImage, settings: Settings) -> list[tuple[int, int]]:
        """None, as there is no model."""
        return []

    def predict_images(self, images: list[LoadedImage], settings: Settings | None = None) -> list[np.ndarray]:
        """The map of the one mask, for each image."""
        batch = [(Source(image, Path(image.name), image.name), image) for image in images]
        return self.predict_batch(batch, settings or Settings())

    def predict_batch(
        self, batch: list[tuple[Source, LoadedImage | LoadedSequence]], settings: Settings
    ) -> list[np.ndarray | list[np.ndarray]]:
        """The maps of images that were read; a sequence has one mask for all frames, or a sequence of masks."""
        return [self._maps(source, image, settings) for source, image in batch]

    def _maps(self, source: Source, image: LoadedImage | LoadedSequence, settings: Settings):
        mask = self._read(source)
        if not isinstance(image, LoadedSequence):
            mask = mask.frames[0] if isinstance(mask, LoadedSequence) else mask
            return self._map(mask, image, settings)
        masks = mask.frames if isinstance(mask, LoadedSequence) else [mask] * len(image.frames)
        if len(masks) != len(image.frames):
            raise ValueError(f'{mask.name}: {len(masks)} frames, but {image.name} has {len(image.frames)}')
        return [self._map(mask, frame, settings) for mask, frame in zip(masks, image.frames)]

    def _read(self, source: Source) -> LoadedImage | LoadedSequence:
        content = self.masks
        if isinstance(content, Path) and content.is_dir():
            content = self._find(content, source)
        if isinstance(content, (Path, bytes)):
            return load_frames(content) if self.decoder is None else self.decoder.read(content, frames='all')
        return load_image(content, 'mask', self.channel_order)

    def _find(self, folder: Path, source: Source) -> Path:
        """The mask of the same path and stem, of the same suffix if there are several."""
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
            raise ValueError(f'{source.name}: several masks: {", ".join(map(str, found))}. Fix: leave one')
        return found[0]

    @staticmethod
    def _map(mask: LoadedImage, image: LoadedImage, settings: Settings) -> np.ndarray:
        levels = cv2.cvtColor(mask.rgb, cv2.COLOR_RGB2GRAY) if mask.alpha is None else mask.alpha
        soft_map = levels.astype(np.float32) / 255
        if mask.size != image.size:
            (h, w), (height, width) = mask.size, image.size
            if abs(h * width / (w * height) - 1) > ASPECT_TOLERANCE:
                raise ValueError(
                    f'{mask.name}: a mask of {w}x{h} pixels does not fit {image.name} of {width}x{height}. Fix: give a '
                    'mask of the same size or aspect ratio, upright as the image is shown'
                )
            shrinks = h > height
            soft_map = cv2.resize(
                soft_map, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
            )
        if settings.refine is not None:
            soft_map = refine_map(image.visible(), soft_map, settings.refine)
        if settings.box is not None:
            _, inside = crop_of_box(settings.box, 0, image.size, image.name)
            whole, soft_map = soft_map, np.zeros_like(soft_map)
            soft_map[inside] = whole[inside]
        return process_map(soft_map, settings)
