"""Use existing masks instead of a model."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np

from mmbirefnet.apis.inferencer import BiRefNetInferencer
from mmbirefnet.imaging.maps import crop_of_box, process_map
from mmbirefnet.imaging.masks import MaskFiles
from mmbirefnet.imaging.read import LoadedImage, LoadedSequence
from mmbirefnet.imaging.refine import refine_map
from mmbirefnet.imaging.sandbox import ImageDecoder
from mmbirefnet.imaging.settings import Settings
from mmbirefnet.imaging.sources import Source


class MaskInferencer(BiRefNetInferencer):
    """A :class:`BiRefNetInferencer` that reads masks from files instead of running a model.

    The operations on the mask that :class:`Settings` documents are applied.

    Args:
        masks, decoder, channel_order: See :class:`~mmbirefnet.imaging.masks.MaskFiles`.

    Raises:
        FileNotFoundError: If the file or folder does not exist.
    """

    def __init__(self, masks, decoder: ImageDecoder | None = None, channel_order: str = 'bgr') -> None:
        self.masks = MaskFiles(masks, decoder, channel_order)
        self.backend = SimpleNamespace(name=self.masks.name)

    def input_sizes(self, image: LoadedImage, settings: Settings) -> list[tuple[int, int]]:
        """Return an empty list: there is no model."""
        return []

    def predict_images(self, images: list[LoadedImage], settings: Settings | None = None) -> list[np.ndarray]:
        """Return the mask for each image, float32 ``(H, W)`` in [0, 1]."""
        batch = [(Source(image, Path(image.name), image.name), image) for image in images]
        return self.predict_batch(batch, settings or Settings())

    def predict_batch(
        self, batch: list[tuple[Source, LoadedImage | LoadedSequence]], settings: Settings
    ) -> list[np.ndarray | list[np.ndarray]]:
        """Return the masks of images; a sequence has one mask for all frames, or a sequence of masks."""
        return [self._maps(source, image, settings) for source, image in batch]

    def _maps(self, source: Source, image: LoadedImage | LoadedSequence, settings: Settings):
        frames = image.frames if isinstance(image, LoadedSequence) else [image]
        maps = self.masks.maps(source, image)
        maps = [_finish(soft_map, frame, settings) for soft_map, frame in zip(maps, frames)]
        return maps if isinstance(image, LoadedSequence) else maps[0]


def _finish(soft_map: np.ndarray, image: LoadedImage, settings: Settings) -> np.ndarray:
    if settings.refine is not None:
        soft_map = refine_map(image.visible(), soft_map, settings.refine)
    if settings.box is not None:
        _, inside = crop_of_box(settings.box, 0, image.size, image.name)
        whole, soft_map = soft_map, np.zeros_like(soft_map)
        soft_map[inside] = whole[inside]
    return process_map(soft_map, settings)
