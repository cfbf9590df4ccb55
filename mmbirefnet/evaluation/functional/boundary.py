"""Measures of the boundary: mean boundary accuracy and boundary IoU."""

import cv2
import numpy as np

from .pair import Pair, level_histogram
from .registry import register_curve, register_measure
from .threshold_curves import iou_curve


@register_measure('mBA', '$mBA$')
def mean_boundary_accuracy(pair: Pair, steps: int = 5) -> float:
    """Mean boundary accuracy (Cheng et al., CVPR 2020): share of correct pixels in bands around the mask's boundary.

    It is averaged over ``steps`` bands with radii from 1 pixel on, below (H + W) / 300. The prediction is thresholded
    at 128 of 255, without stretching. For a mask without boundary (empty or full), all pixels count.
    """
    right = pair.binary == pair.mask
    if pair.foreground in (0, pair.size):
        return float(right.mean())
    widest = sum(pair.shape) / 300
    accuracies = {}
    radii = [1 + int((widest - 1) / steps * step) for step in range(steps)]
    window = _window(pair.mask_u8, max(radii))
    right, mask = right[window], pair.mask_u8[window]
    for radius in set(radii):
        disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1,) * 2)
        band = cv2.morphologyEx(mask, cv2.MORPH_GRADIENT, disk).view(np.bool_)
        accuracies[radius] = np.count_nonzero(right & band) / np.count_nonzero(band)
    return float(np.mean([accuracies[radius] for radius in radii]))


@register_curve('BIoU', maxBIoU=(np.max, '$BIoU^{max}$'), meanBIoU=(np.mean, '$BIoU^{mean}$'))
def boundary_iou_curve(pair: Pair, ratio: float = 0.02) -> np.ndarray:
    """Boundary IoU (Cheng et al., CVPR 2021) at the thresholds 255 ... 0, float64 (256,).

    The boundary is the gray map minus its erosion by ``ratio`` of the image's diagonal. The value is 0 for an empty
    mask.
    """
    stretched = (pair.levels.clip(0, 1) * 255).astype(np.uint8)
    boundary = _boundary(cv2.LUT(pair.score_map, stretched), ratio)
    hits = level_histogram(boundary, _boundary(pair.mask_u8, ratio))
    misses = level_histogram(boundary) - hits
    return iou_curve(np.cumsum(hits[::-1]), np.cumsum(misses[::-1]), int(hits.sum()))


def _window(mask: np.ndarray, margin: int) -> tuple:
    """Index (rows, columns) of the object's bounding box with a margin, within the image."""
    left, top, width, height = cv2.boundingRect(mask)
    rows = slice(max(top - margin, 0), top + height + margin)
    return rows, slice(max(left - margin, 0), left + width + margin)


def _boundary(image: np.ndarray, ratio: float) -> np.ndarray:
    """``image`` minus its erosion, uint8 (H, W). At the edge of the image, the object has a boundary."""
    size = max(1, round(ratio * float(np.hypot(*image.shape))))
    box = np.ones((3, 3), np.uint8)
    eroded = cv2.erode(image, box, iterations=size, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    return image - eroded
