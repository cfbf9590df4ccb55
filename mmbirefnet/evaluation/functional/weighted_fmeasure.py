"""Weighted F-measure (Margolin et al., CVPR 2014)."""

import cv2
import numpy as np

from .pair import Pair
from .registry import register_measure

_EPS = np.spacing(1)
_RADIUS = 3  # radius of the 7x7 window
_DECAY = np.log(0.5) / 5
# Offsets at which to look for the nearest foreground pixel, nearest first. Among several at one distance, scipy's
# Euclidean feature transform, which the published code uses, takes the leftmost, then the topmost.
_OFFSETS = sorted(
    ((dy, dx) for dy in range(-4, 5) for dx in range(-4, 5) if 0 < dy * dy + dx * dx <= 2 * _RADIUS**2),
    key=lambda offset: (offset[0] ** 2 + offset[1] ** 2, offset[1], offset[0]),
)
_PAD = 4  # the largest offset
_HALO = _RADIUS + _PAD  # rows that the smoothed error of a row depends on
STRIP = 2**18  # pixels that are processed at once, so that their arrays stay in the cache


@register_measure('wFmeasure', r'$F^{\omega}_{\beta}$')
def weighted_fmeasure(pair: Pair, beta2: float = 1.0) -> float:
    """Weighted F-measure (Margolin et al., CVPR 2014) in [0, 1]; 0 for an empty mask.

    Errors inside the object are smoothed with a 7x7 Gaussian of sigma 5 (pixel dependency). Errors outside have a
    larger weight the farther they are from the object (pixel importance).
    """
    if pair.foreground == 0:
        return 0.0
    distance = cv2.distanceTransform(1 - pair.mask_u8, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    height, width = pair.shape
    step = max(STRIP // width, 2 * _HALO)
    inside = outside = 0.0
    for start in range(0, height, step):
        stop = min(start + step, height)
        first = max(start - _HALO, 0)
        rows = slice(first, min(stop + _HALO, height))
        mask = pair.mask[rows]
        error = np.abs(cv2.LUT(pair.score_map[rows], pair.levels) - mask)
        strip = slice(start - first, stop - first)
        if mask.any():
            inside += np.minimum(error, _smoothed(error, mask))[strip][mask[strip]].sum()
        outside += _outside_error(error[strip], mask[strip], distance[start:stop])

    weighted_tp = pair.foreground - inside
    recall = 1 - inside / pair.foreground
    precision = weighted_tp / (weighted_tp + outside + _EPS)
    return float((1 + beta2) * recall * precision / (recall + beta2 * precision + _EPS))


def _smoothed(error: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """``error`` smoothed with the errors of the object extended outwards, float64 (H, W); valid on the foreground."""
    kernel = cv2.getGaussianKernel(2 * _RADIUS + 1, 5, cv2.CV_64F)
    continued = _continue_outwards(error, mask)
    return cv2.sepFilter2D(continued, cv2.CV_64F, kernel, kernel, borderType=cv2.BORDER_CONSTANT)


def _continue_outwards(error: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """``error`` where background pixels near the object have the value of their nearest foreground pixel."""
    box = np.ones((2 * _RADIUS + 1,) * 2, np.uint8)
    band = np.flatnonzero(np.pad(cv2.dilate(mask.view(np.uint8), box) > mask, _PAD))
    width = mask.shape[1] + 2 * _PAD
    mask, error = np.pad(mask, _PAD).ravel(), np.pad(error, _PAD)
    continued, error = error.copy(), error.ravel()
    flat = continued.ravel()
    for dy, dx in _OFFSETS:
        nearest = band + (dy * width + dx)
        hit = mask[nearest]
        flat[band[hit]] = error[nearest[hit]]
        band = band[~hit]
        if band.size == 0:
            break
    return continued[_PAD:-_PAD, _PAD:-_PAD]


def _outside_error(error: np.ndarray, mask: np.ndarray, distance: np.ndarray) -> float:
    """Sum of the errors of the background, weighted by 2 - 0.5^(distance / 5)."""
    wrong = ~mask & (error > 0)
    # Squared distances are integers; rounding them makes the float32 roots exact.
    distance = np.sqrt(np.rint(np.square(distance[wrong], dtype=np.float64)))
    return (error[wrong] * (2 - np.exp(_DECAY * distance))).sum()
