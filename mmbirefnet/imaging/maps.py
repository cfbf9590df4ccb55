"""Operations on soft maps that need numpy and OpenCV alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import cv2
import numpy as np

from mmbirefnet.imaging.settings import Settings

_COLUMN_COST = 3  # of a value that is interpolated along a row, relative to one along a column
OBJECT = 0.5  # from here on a pixel counts as part of an object
VISIBLE = 0.05  # alpha from which on a crop keeps a pixel
_SPECK = 0.1  # share of the largest component; smaller components do not widen the crop of the second pass
_MOST = 0.8  # of the image's sides: a crop above this shows the model little more


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
    """The part of an image that the model gets, and the box itself, as (rows, columns).

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
        # Clipped before they are rounded: a margin may be infinite.
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
        settings: Their ``threshold`` is also the level from which on pixels form components; 0.5 without one.

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
        # Outside the image lies neither object nor background.
        soft_map = (cv2.dilate if settings.grow > 0 else cv2.erode)(soft_map, disk)
    if settings.feather:
        soft_map = cv2.GaussianBlur(soft_map, (0, 0), settings.feather, borderType=cv2.BORDER_REPLICATE)
        np.clip(soft_map, 0, 1, out=soft_map)  # the kernel's rounded weights may sum to more than 1
    return 1 - soft_map if settings.invert else soft_map


def remove_small_components(soft_map: np.ndarray, min_area: float, threshold: float = OBJECT) -> np.ndarray:
    """Set components to 0 that are smaller than ``min_area``, each with the soft edge around it.

    Components are 8-connected pixels above the threshold; every other pixel belongs to the nearest of them.

    Args:
        soft_map: float32 ``(H, W)``.
        min_area: In pixels from 1 on, below 1 as a share of all pixels.
        threshold: Pixels above it are counted.
    """
    limit = min_area if min_area >= 1 else min_area * soft_map.size
    return _remove_components(soft_map, threshold, lambda areas: areas < limit)


def keep_largest_component(soft_map: np.ndarray, threshold: float = OBJECT) -> np.ndarray:
    """Set all components but the largest to 0, as :func:`remove_small_components` does."""
    return _remove_components(soft_map, threshold, lambda areas: np.arange(len(areas)) != areas.argmax())


def _remove_components(
    soft_map: np.ndarray, threshold: float, choose: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """Set the components to 0 that ``choose`` returns True for, given the areas of all in pixels."""
    inside = soft_map > threshold
    count, labels, stats, _ = cv2.connectedComponentsWithStats(inside.view(np.uint8), connectivity=8)
    if count == 1:
        return soft_map
    removed = np.concatenate([[False], choose(stats[1:, cv2.CC_STAT_AREA])])  # the first is the background
    if not removed.any():
        return soft_map
    # Numbers the zeros of its input, the nearest of which each pixel gets; then from pixel number to component.
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
    """(rows, columns) of the object with a margin, for a second prediction.

    Args:
        soft_map: float32 ``(H, W)`` in [0, 1]. Pixels above half its maximum, at most 0.5, are the object: the map of a
            small object may be weak. Components below a tenth of the largest do not count.
        margin: Share of the box's sides that is added on each side, as far as the image goes.

    Returns:
        ``None`` if nothing is visible, or if the box is most of the image: both sides above 80 % of it.
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
    """Put the map of a crop into the map of the whole, in place; it fades in over the margin.

    Args:
        soft_map: float32 ``(H, W)``.
        crop_map: float32 ``(h, w)``, for ``box``.
        box: (rows, columns) of the crop, whose margin is ``margin`` times the object's sides; a side of the box that
            lies on the image's border does not fade.
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
    """(rows, columns) around all that is visible, the whole image if nothing is.

    Args:
        alpha: float32 ``(H, W)`` in [0, 1]; a pixel counts from 0.05 on, so that a haze does not.
        margin: Share of the box's sides that is added on each side, as far as the image goes.
    """
    left, top, width, height = cv2.boundingRect((alpha >= VISIBLE).view(np.uint8))
    if not width:
        return slice(0, alpha.shape[0]), slice(0, alpha.shape[1])
    outer, _ = crop_of_box((left, top, left + width, top + height), margin, alpha.shape, 'alpha')
    return outer
