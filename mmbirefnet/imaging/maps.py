"""Operations on soft maps that need numpy and OpenCV alone."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np

_COLUMN_COST = 3  # of a value that is interpolated along a row, relative to one along a column
OBJECT = 0.5  # from here on a pixel counts as part of an object


def resize_map(soft_map: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bilinear resize with aligned corners, as the network itself resizes.

    No mode of ``cv2.resize`` does this, and ``cv2.remap`` rounds positions to 1/32 of a pixel.

    Args:
        soft_map: float32 ``(h, w)``.
        size: Wanted (H, W) in pixels.

    Returns:
        float32 ``(H, W)``.
    """
    (h, w), (height, width) = soft_map.shape, size
    # The map between the two passes may be larger than both ends: 1024 rows of a million columns, for one row.
    columns_first = _COLUMN_COST * h * width + height * width <= height * w + _COLUMN_COST * height * width
    passes = ((1, width), (0, height)) if columns_first else ((0, height), (1, width))
    for axis, length in passes:
        if soft_map.shape[axis] != length:
            soft_map = _interpolate(soft_map, length, axis)
    return soft_map


def _interpolate(values: np.ndarray, length: int, axis: int) -> np.ndarray:
    last = values.shape[axis] - 1
    position = np.linspace(0, last, length) if length > 1 else np.zeros(1)
    low = np.minimum(position.astype(np.intp), max(last - 1, 0))
    weight = (position - low).astype(np.float32)
    weight = weight[:, None] if axis == 0 else weight
    below, above = values.take(low, axis), values.take(np.minimum(low + 1, last), axis)
    above -= below
    above *= weight
    above += below
    return above


def to_uint8(soft_map: np.ndarray) -> np.ndarray:
    """Gray levels, uint8 = trunc(probability * 255), as the benchmark's maps are written."""
    return (soft_map * 255).astype(np.uint8)


def crop_of_box(
    box: Sequence[float], margin: float, size: tuple[int, int], name: str
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """What the model is shown of an image, and the box itself, as (rows, columns).

    Args:
        box: (left, top, right, bottom) in pixels; parts outside the image are cut off.
        margin: Share of the box's sides that is added on each side, as far as the image goes.
        size: (H, W) of the image.
        name: Of the image, for the error.

    Raises:
        ValueError: The box lies outside the image.
    """
    (left, top, right, bottom), (height, width) = box, size

    def clip(extra: float) -> tuple[slice, slice]:
        dx, dy = extra * (right - left), extra * (bottom - top)
        rows = slice(max(0, math.floor(top - dy)), min(height, math.ceil(bottom + dy)))
        return rows, slice(max(0, math.floor(left - dx)), min(width, math.ceil(right + dx)))

    inner = clip(0)
    if any(side.start >= side.stop for side in inner):
        raise ValueError(f'{name}: box={tuple(box)} lies outside the image of {width}x{height} pixels')
    return clip(margin), inner


def remove_small_components(soft_map: np.ndarray, min_area: float, threshold: float = OBJECT) -> np.ndarray:
    """Set components to 0 that are smaller than ``min_area``, each with the soft edge around it.

    Components are 8-connected pixels above the threshold; every other pixel belongs to the nearest of them.

    Args:
        soft_map: float32 ``(H, W)``.
        min_area: In pixels from 1 on, below 1 as a share of all pixels.
        threshold: What exceeds it is counted.
    """
    inside = soft_map > threshold
    count, labels, stats, _ = cv2.connectedComponentsWithStats(inside.view(np.uint8), connectivity=8)
    areas = stats[:, cv2.CC_STAT_AREA]
    limit = min_area if min_area >= 1 else min_area * soft_map.size
    small = areas < limit
    small[0] = False
    if count == 1 or not small.any():
        return soft_map
    # Numbers the zeros of its input, the nearest of which each pixel gets; then from pixel number to component.
    _, nearest = cv2.distanceTransformWithLabels(
        (~inside).view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    component = np.zeros(nearest.max() + 1, np.int32)
    component[nearest[inside]] = labels[inside]
    return np.where(small[component[nearest]], np.float32(0), soft_map)
