"""Predict large inputs in overlapping tiles, and blend the predictions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mmbirefnet.imaging.settings import STRIDE


def predict_in_tiles(
    predict: Callable[[np.ndarray], np.ndarray], image: np.ndarray, tile: int, overlap: int
) -> np.ndarray:
    """Predict an image tile by tile.

    Where two tiles overlap, the second fades in over the middle half of the overlap. So a tile has no weight within a
    quarter of the overlap from its inner borders, and a model whose output depends only on pixels up to ``overlap / 4``
    away predicts the same as for the whole image.

    Args:
        predict: Function from uint8 ``(1, h, w, C)`` to float32 ``(1, h, w)``.
        image: uint8 ``(H, W, C)``, sides in multiples of 32.
        tile: Largest side of a tile in pixels, a multiple of 32.
        overlap: Smallest number of pixels that neighboring tiles share; at most ``tile - 32``.

    Returns:
        float32 ``(H, W)``.
    """
    height, width = image.shape[:2]
    total = np.zeros((height, width), np.float32)
    columns = _windows(width, tile, overlap)
    for rows, row_weights in _windows(height, tile, overlap):
        for window, column_weights in columns:
            soft_map = predict(np.ascontiguousarray(image[None, rows, window]))[0]
            total[rows, window] += soft_map * row_weights[:, None] * column_weights
    return total


def count_tiles(size: tuple[int, int], tile: int, overlap: int) -> int:
    """Number of tiles for an image of this size (H, W); other arguments as in :func:`predict_in_tiles`."""
    rows, columns = (len(_starts(length, tile, overlap)) for length in size)
    return rows * columns


def _starts(length: int, tile: int, overlap: int) -> list[int]:
    step = (tile - overlap) // STRIDE * STRIDE
    return [*range(0, length - tile, step), max(0, length - tile)]


def _windows(length: int, tile: int, overlap: int) -> list[tuple[slice, np.ndarray]]:
    """Windows along an axis with float32 weights of their pixels; the weights of each pixel sum to 1.

    Windows start at multiples of 32, so that a network sees the same grid in a tile as in the whole image.
    """
    if length <= tile:
        return [(slice(0, length), np.ones(length, np.float32))]
    starts = _starts(length, tile, overlap)
    positions = np.arange(length) + 0.5
    fades = [np.ones(length)]
    for start, previous in zip(starts[1:], starts):
        half = (previous + tile - start) / 2
        fades.append(np.clip((positions - start - half) / max(half, 1e-9) + 0.5, 0, 1))
    fades.append(np.zeros(length))
    windows = [slice(start, start + tile) for start in starts]
    return [
        (window, (fade - following)[window].astype(np.float32))
        for window, fade, following in zip(windows, fades, fades[1:])
    ]
