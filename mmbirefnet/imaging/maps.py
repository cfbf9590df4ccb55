"""Operations on soft maps that need only NumPy and OpenCV."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import cv2
import numpy as np

from mmbirefnet.imaging.settings import Settings

_COLUMN_COST = 3  # cost of interpolating a value along a row, relative to along a column
OBJECT = 0.5  # threshold above which a pixel belongs to an object
VISIBLE = 0.05  # smallest alpha of a pixel that a crop must contain
_SPECK = 0.1  # share of the largest component; smaller components do not widen the crop of the second pass
_MOST = 0.8  # share of the image's sides; a larger crop would show the model little more detail


def resize_map(soft_map: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize bilinearly with aligned corners, as in the network.

    No mode of ``cv2.resize`` does this, and ``cv2.remap`` rounds positions to 1/32 of a pixel.

    Args:
        soft_map: float32 ``(h, w)``.
        size: Target (H, W) in pixels.

    Returns:
        float32 ``(H, W)``.
    """
    (h, w), (height, width) = soft_map.shape, size
    # Choose the cheaper order: the intermediate map may be far larger than input and output, for example 1024 rows of
    # a million columns where the output has one row.
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
    """Convert to gray levels, uint8 = trunc(probability * 255), as in the benchmark."""
    return (soft_map * 255).astype(np.uint8)


def crop_of_box(
    box: Sequence[float], margin: float, size: tuple[int, int], name: str
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Return the crop of an image for the model, and the box without margin, each as (rows, columns).

    Args:
        box: (left, top, right, bottom) in pixels; clipped to the image.
        margin: Context on each side, as a fraction of the sides of the box; clipped to the image.
        size: (H, W) of the image.
        name: Name of the image in messages.

    Raises:
        ValueError: If the box lies outside the image.
    """
    (left, top, right, bottom), (height, width) = box, size

    def clip(extra: float) -> tuple[slice, slice]:
        dx, dy = extra * (right - left), extra * (bottom - top)
        # Clip before rounding, since a margin may be infinite.
        rows = slice(math.floor(max(0, top - dy)), math.ceil(min(height, bottom + dy)))
        return rows, slice(math.floor(max(0, left - dx)), math.ceil(min(width, right + dx)))

    inner = clip(0)
    if any(side.start >= side.stop for side in inner):
        raise ValueError(f'{name}: box={tuple(box)} lies outside the image of {width}x{height} pixels')
    return clip(margin), inner


def process_map(soft_map: np.ndarray, settings: Settings) -> np.ndarray:
    """Apply the operations of the settings to a map, in the order that :class:`Settings` documents.

    Args:
        soft_map: float32 ``(H, W)`` in [0, 1].
        settings: The operations. Pixels above ``threshold`` (0.5 by default) form the components.

    Returns:
        float32 ``(H, W)`` in [0, 1].
    """
    level = OBJECT if settings.threshold is None else settings.threshold
    if settings.levels is not None:
        low, high = settings.levels
        soft_map = np.clip((soft_map - np.float32(low)) / np.float32(high - low), 0, 1)
    if settings.min_area:
        soft_map = remove_small_components(soft_map, settings.min_area, level)
    if settings.largest:
        soft_map = keep_largest_component(soft_map, level)
    if settings.fill_holes:
        soft_map = fill_holes(soft_map, level)
    if settings.threshold is not None:
        soft_map = (soft_map > settings.threshold).astype(np.float32)
    if settings.grow:
        side = 2 * abs(settings.grow) + 1
        disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
        # OpenCV's default border neither grows nor shrinks the object from outside the image.
        soft_map = (cv2.dilate if settings.grow > 0 else cv2.erode)(soft_map, disk)
    if settings.feather:
        soft_map = cv2.GaussianBlur(soft_map, (0, 0), settings.feather, borderType=cv2.BORDER_REPLICATE)
        np.clip(soft_map, 0, 1, out=soft_map)  # the sum of the rounded kernel weights may exceed 1
    return 1 - soft_map if settings.invert else soft_map


def remove_small_components(soft_map: np.ndarray, min_area: float, threshold: float = OBJECT) -> np.ndarray:
    """Set components that are smaller than ``min_area`` to 0, including the soft edge around each.

    Components are 8-connected pixels above the threshold; every other pixel belongs to the nearest component.

    Args:
        soft_map: float32 ``(H, W)``.
        min_area: Area in pixels, or if below 1 as a fraction of all pixels.
        threshold: Pixels above this value form components, and count for their area.
    """
    limit = min_area if min_area >= 1 else min_area * soft_map.size
    return _remove_components(soft_map, threshold, lambda areas: areas < limit)


def keep_largest_component(soft_map: np.ndarray, threshold: float = OBJECT) -> np.ndarray:
    """Set all components but the largest to 0, as :func:`remove_small_components` does."""
    return _remove_components(soft_map, threshold, lambda areas: np.arange(len(areas)) != areas.argmax())


def _remove_components(
    soft_map: np.ndarray, threshold: float, choose: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """Set the components to 0 for which ``choose`` returns True, given the areas of all components in pixels."""
    inside = soft_map > threshold
    count, labels, stats, _ = cv2.connectedComponentsWithStats(inside.view(np.uint8), connectivity=8)
    if count == 1:
        return soft_map
    removed = np.concatenate([[False], choose(stats[1:, cv2.CC_STAT_AREA])])  # the first is the background
    if not removed.any():
        return soft_map
    # Number the pixels of all components, and give each pixel of the map the number of the nearest one. Then translate
    # these numbers to components.
    _, nearest = cv2.distanceTransformWithLabels(
        (~inside).view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    component = np.zeros(nearest.max() + 1, np.int32)
    component[nearest[inside]] = labels[inside]
    return np.where(removed[component[nearest]], np.float32(0), soft_map)


def fill_holes(soft_map: np.ndarray, threshold: float = OBJECT) -> np.ndarray:
    """Set holes to 1: 4-connected pixels not above the threshold that do not reach the border of the image."""
    outside = (soft_map <= threshold).view(np.uint8)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(outside, connectivity=4)
    left, top, width, height, _ = stats.T
    hole = (left > 0) & (top > 0) & (left + width < soft_map.shape[1]) & (top + height < soft_map.shape[0])
    hole[0] = False  # the objects
    return np.where(hole[labels], np.float32(1), soft_map)


def box_to_predict_again(soft_map: np.ndarray, margin: float) -> tuple[slice, slice] | None:
    """Return (rows, columns) of the object with a margin, for a second prediction.

    Args:
        soft_map: float32 ``(H, W)`` in [0, 1]. The object is where it reaches half its maximum, but at most 0.5, since
            small objects may have low values. Components below a tenth of the largest are ignored.
        margin: Context on each side, as a fraction of the sides of the box; clipped to the image.

    Returns:
        The box; ``None`` if nothing is visible, or if both sides of the box exceed 80 % of those of the image.
    """
    height, width = soft_map.shape
    level = min(OBJECT, float(soft_map.max()) / 2)
    if level < VISIBLE:
        return None
    _, _, stats, _ = cv2.connectedComponentsWithStats((soft_map >= level).view(np.uint8))
    left, top, w, h, areas = stats[1:].T
    parts = areas >= _SPECK * areas.max()
    box = (left[parts].min(), top[parts].min(), (left + w)[parts].max(), (top + h)[parts].max())
    (rows, columns), _ = crop_of_box(box, margin, soft_map.shape, 'map')
    if rows.stop - rows.start > _MOST * height and columns.stop - columns.start > _MOST * width:
        return None
    return rows, columns


def blend_crop(soft_map: np.ndarray, crop_map: np.ndarray, box: tuple[slice, slice], margin: float) -> None:
    """Blend the map of a crop into the map of the image, in place; it fades in over the margin.

    Args:
        soft_map: float32 ``(H, W)``.
        crop_map: float32 ``(h, w)``, for ``box``.
        box: (rows, columns) of the crop. On the border of the image, the map of the crop does not fade.
        margin: Margin of the crop, as a fraction of the sides of the object.
    """
    weights = []
    for side, length in zip(box, soft_map.shape):
        size = side.stop - side.start
        fade = max(size * margin / (1 + 2 * margin), 1)
        inside = np.arange(size, dtype=np.float32) + np.float32(0.5)
        weight = np.ones(size, np.float32)
        if side.start > 0:
            weight = np.minimum(weight, inside / fade)
        if side.stop < length:
            weight = np.minimum(weight, (size - inside) / fade)
        weights.append(weight.astype(np.float32))
    soft_map[box] += (crop_map - soft_map[box]) * weights[0][:, None] * weights[1]


def box_of_object(alpha: np.ndarray, margin: float = 0) -> tuple[slice, slice]:
    """Return (rows, columns) around all visible pixels; the whole image if there are none.

    Args:
        alpha: float32 ``(H, W)`` in [0, 1]; pixels of 0.05 or more are visible, so a faint haze is ignored.
        margin: Context on each side, as a fraction of the sides of the box; clipped to the image.
    """
    left, top, width, height = cv2.boundingRect((alpha >= VISIBLE).view(np.uint8))
    if not width:
        return slice(0, alpha.shape[0]), slice(0, alpha.shape[1])
    outer, _ = crop_of_box((left, top, left + width, top + height), margin, alpha.shape, 'alpha')
    return outer
