"""Weighted F-measure (Margolin et al., CVPR 2014)."""

from __future__ import annotations

import cv2
import numpy as np

from .pair import Pair

_EPS = np.spacing(1)
_RADIUS = 3  # of the 7x7 window
_DECAY = np.log(0.5) / 5
# The nearest foreground pixel of one within the window's reach, nearest first. Of several at one distance scipy's
# Euclidean feature transform, which the published numbers rest on, takes the leftmost, then the topmost.
_REACH = 2 * _RADIUS**2
_OFFSETS = sorted(
    ((dy, dx) for dy in range(-4, 5) for dx in range(-4, 5) if 0 < dy * dy + dx * dx <= _REACH),
    key=lambda offset: (offset[0] ** 2 + offset[1] ** 2, offset[1], offset[0]),
)
_PAD = 4  # the largest offset


def weighted_fmeasure(pair: Pair, beta2: float = 1.0) -> float:
    """Weighted F-measure in [0, 1]; 0 for an empty mask.

    Errors inside the object are smoothed over a 7x7 Gaussian of sigma 5 (pixel dependency); errors outside weigh more
    the farther they are from it (pixel importance).
    """
    if pair.foreground == 0:
        return 0.0
    mask = pair.mask
    error = np.abs(pair.scores - mask)
    top, bottom, left, right = _bounds(mask)
    window = slice(top, bottom), slice(left, right)
    inside = _smoothed_error(error[window], mask[window]).sum()
    outside = _outside_error(error, pair)

    weighted_tp = pair.foreground - inside
    recall = 1 - inside / pair.foreground
    precision = weighted_tp / (weighted_tp + outside + _EPS)
    return float((1 + beta2) * recall * precision / (recall + beta2 * precision + _EPS))


def _bounds(mask: np.ndarray) -> tuple:
    """Top, bottom, left, right of the foreground and the window's reach around it, within the image."""
    left, top, width, height = cv2.boundingRect(mask.view(np.uint8))
    reach = _RADIUS
    return max(top - reach, 0), top + height + reach, max(left - reach, 0), left + width + reach


def _smoothed_error(error: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The lesser of error and smoothed error on the foreground, float64 (foreground pixels,)."""
    kernel = cv2.getGaussianKernel(2 * _RADIUS + 1, 5, cv2.CV_64F)
    dependent = _extend_outwards(error, mask)
    smoothed = cv2.sepFilter2D(dependent, cv2.CV_64F, kernel, kernel, borderType=cv2.BORDER_CONSTANT)
    return np.minimum(error, smoothed)[mask]


def _extend_outwards(error: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """``error`` with the values of background pixels within the window's reach taken from their nearest foreground."""
    box = np.ones((2 * _RADIUS + 1,) * 2, np.uint8)
    band = np.pad(cv2.dilate(mask.view(np.uint8), box) > mask, _PAD)
    error, mask = np.pad(error, _PAD), np.pad(mask, _PAD)
    width = mask.shape[1]
    band = np.flatnonzero(band)
    extended, error, mask = error.copy(), error.ravel(), mask.ravel()
    flat = extended.ravel()
    for dy, dx in _OFFSETS:
        nearest = band + (dy * width + dx)
        hit = mask[nearest]
        flat[band[hit]] = error[nearest[hit]]
        band = band[~hit]
        if band.size == 0:
            break
    return extended[_PAD:-_PAD, _PAD:-_PAD]


def _outside_error(error: np.ndarray, pair: Pair) -> float:
    """Sum of the background's errors, weighted by 2 - 0.5^(distance / 5)."""
    distance = cv2.distanceTransform(1 - pair.mask_u8, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    wrong = ~pair.mask & (error > 0)
    # Squared distances are whole numbers, which float32 holds nearly: so the roots are exact again.
    distance = np.sqrt(np.rint(np.square(distance[wrong], dtype=np.float64)))
    return float((error[wrong] * (2 - np.exp(_DECAY * distance))).sum())
