"""Refine the uncertain edges of a soft map with the colors of its image.

Guided filter: He et al., "Guided Image Filtering" (TPAMI 2013), with the subsampling of He and Sun, "Fast Guided
Filter" (2015). Closed-form matting: Levin et al., "A Closed-Form Solution to Natural Image Matting" (TPAMI 2008).
"""

from __future__ import annotations

import itertools
import os

import cv2
import numpy as np

METHODS = ('guided', 'closed-form')
CERTAIN = 0.05  # alpha up to this is certain background, and from 1 minus this on certain foreground
BAND = 640  # longer side of the image divided by the width by which the uncertain band is dilated
RADIUS = 20  # longer side of the image divided by the radius of the guided filter's windows
EPS = 1e-5  # regularization of the guided filter, for colors in [0, 1]
LONGEST = 1024  # longer side of the image at which the coefficients of the guided filter are computed
UNCERTAIN_WEIGHT = 0.01  # weight of uncertain pixels in the fit of the guided filter; certain pixels have 1


def refine_map(image: np.ndarray, soft_map: np.ndarray, method: str) -> np.ndarray:
    """Estimate alpha again in the uncertain band of a map; all other pixels keep their value.

    The band consists of the pixels whose alpha is between 0.05 and 0.95, and of pixels near them.

    Args:
        image: uint8 RGB ``(H, W, 3)``.
        soft_map: float32 ``(H, W)`` in [0, 1].
        method: ``'guided'`` for a guided filter, ``'closed-form'`` for closed-form matting, which takes far more time
            and memory and needs the package pymatting.

    Returns:
        float32 ``(H, W)`` in [0, 1].

    Raises:
        ValueError: If there is no such method.
        ImportError: If pymatting is needed and not installed.
    """
    if method not in METHODS:
        raise ValueError(f'refine={method!r}, must be one of {", ".join(METHODS)}')
    reach = max(1, round(max(soft_map.shape) / BAND))
    uncertain = (soft_map > CERTAIN) & (soft_map < 1 - CERTAIN)
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1,) * 2)
    band = cv2.dilate(uncertain.view(np.uint8), disk) > 0
    if not band.any() or band.all():  # nothing to refine, or no certain pixels to fit
        return soft_map
    alpha = (_guided_filter if method == 'guided' else _closed_form)(image, soft_map, band)
    return np.where(band, np.clip(alpha, 0, 1), soft_map).astype(np.float32)


def _guided_filter(image: np.ndarray, soft_map: np.ndarray, band: np.ndarray) -> np.ndarray:
    """Compute alpha = a · I + b, with a and b averaged over fits in windows (Eqs. 19 to 21 of He et al.).

    Pixels of the band have a small weight in the least-squares fits, since their alpha is to be estimated.
    """
    height, width = soft_map.shape
    scale = min(1.0, LONGEST / max(height, width))
    small = max(1, round(width * scale)), max(1, round(height * scale))
    weight = np.where(band, np.float32(UNCERTAIN_WEIGHT), np.float32(1))
    pixels, alpha, weight = (
        cv2.resize(x, small, interpolation=cv2.INTER_AREA) for x in (image.astype(np.float32) / 255, soft_map, weight)
    )
    side = 2 * max(1, round(max(small) / RADIUS)) + 1

    def blur(x: np.ndarray) -> np.ndarray:
        return cv2.blur(x, (side, side), borderType=cv2.BORDER_REFLECT)

    total = blur(weight)

    def mean(x: np.ndarray) -> np.ndarray:
        return blur(weight * x) / total

    colors = cv2.split(pixels)
    means, mean_alpha = [mean(color) for color in colors], mean(alpha)
    vector = [mean(color * alpha) - m * mean_alpha for color, m in zip(colors, means)]
    rr, rg, rb, gg, gb, bb = (
        mean(colors[i] * colors[j]) - means[i] * means[j] + EPS * (i == j)
        for i, j in itertools.combinations_with_replacement(range(3), 2)
    )
    # Adjugate of the symmetric covariance matrix, row by row; the determinant follows.
    rows = (
        (gg * bb - gb * gb, gb * rb - rg * bb, rg * gb - gg * rb),
        (gb * rb - rg * bb, rr * bb - rb * rb, rb * rg - rr * gb),
        (rg * gb - gg * rb, rb * rg - rr * gb, rr * gg - rg * rg),
    )
    determinant = sum(a * b for a, b in zip((rr, rg, rb), rows[0]))
    slopes = [sum(a * b for a, b in zip(row, vector)) / determinant for row in rows]
    offset = mean_alpha - sum(slope * m for slope, m in zip(slopes, means))
    result = cv2.resize(blur(offset), (width, height), interpolation=cv2.INTER_LINEAR)
    for channel, slope in enumerate(slopes):
        slope = cv2.resize(blur(slope), (width, height), interpolation=cv2.INTER_LINEAR)
        result += slope * (image[..., channel].astype(np.float32) / 255)
    return result


def _closed_form(image: np.ndarray, soft_map: np.ndarray, band: np.ndarray) -> np.ndarray:
    """Estimate alpha in the band with PyMatting; all other pixels are known, and only their bounding box is solved."""
    # Importing PyMatting makes numba set the number of OpenMP threads, torch's included, to one per core by default.
    if threads := os.environ.get('OMP_NUM_THREADS'):
        os.environ.setdefault('NUMBA_NUM_THREADS', threads)
    try:
        from pymatting import estimate_alpha_cf
    except ImportError as error:
        raise ImportError(
            "refine='closed-form' needs the package pymatting. Fix: pip install 'mmbirefnet[matting]'"
        ) from error
    left, top, width, height = cv2.boundingRect(band.view(np.uint8))
    part = slice(max(0, top - 2), top + height + 2), slice(max(0, left - 2), left + width + 2)
    trimap = np.where(band, 0.5, np.rint(soft_map)).astype(np.float64)[part]
    result = soft_map.copy()
    result[part] = estimate_alpha_cf(image[part].astype(np.float64) / 255, trimap)
    return result
