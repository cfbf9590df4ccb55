"""Measures of alpha mattes (Rhemann et al., CVPR 2009), over the whole image and over the unknown region of a trimap.

They compare the prediction, value / 255, with the soft mask, or with the binary mask if there is no soft one. As in the
tables of matting papers, sums are in thousands.
"""

import math

import cv2
import numpy as np

from .pair import Pair
from .registry import register_measure

_SIGMA = 1.4  # sigma of the Gaussian derivative, in pixels
_STEPS = 10  # levels of connectivity, 0.1 apart, as in the code of Xu et al. (CVPR 2017), which later papers use
_TOLERANCE = 0.15  # smaller distances to the connected level do not count
_ROUNDING = 1e-6  # less than one level of 16 bits, so that 153 / 255 reaches the level 0.6


@register_measure('SAD', '$SAD$', lower_is_better=True, digits=2, needs='soft mask')
def sum_of_absolute_differences(pair: Pair) -> float:
    """Sum of absolute differences of alpha (SAD), in thousands."""
    return _total(pair.once(_absolute_error)) / 1000


@register_measure('Grad', '$Grad$', lower_is_better=True, digits=2, needs='soft mask')
def gradient_error(pair: Pair) -> float:
    """Gradient error: sum of squared differences of the gradient magnitudes, in thousands (sigma 1.4, exponent 2)."""
    return _total(pair.once(_gradient_error)) / 1000


@register_measure('Conn', '$Conn$', lower_is_better=True, digits=2, needs='soft mask')
def connectivity_error(pair: Pair) -> float:
    """Connectivity error: sum of absolute differences of the degrees of connectivity, in thousands.

    The levels are 0.1 apart, and the tolerance is 0.15.
    """
    return _total(pair.once(_connectivity_error)) / 1000


@register_measure('SAD-T', '$SAD_T$', lower_is_better=True, digits=2, needs='trimap')
def sum_of_absolute_differences_in_trimap(pair: Pair) -> float:
    """``SAD`` over the unknown region of the trimap."""
    return _total(pair.once(_absolute_error)[pair.unknown]) / 1000


@register_measure('MSE-T', '$MSE_T$', lower_is_better=True, digits=4, needs='trimap')
def mean_squared_error_in_trimap(pair: Pair) -> float:
    """Mean squared difference over the unknown region of the trimap; 0 if nothing is unknown."""
    errors = pair.once(_absolute_error)[pair.unknown]
    return _total(np.square(errors)) / max(errors.size, 1)


@register_measure('Grad-T', '$Grad_T$', lower_is_better=True, digits=2, needs='trimap')
def gradient_error_in_trimap(pair: Pair) -> float:
    """``Grad`` over the unknown region of the trimap."""
    return _total(pair.once(_gradient_error)[pair.unknown]) / 1000


@register_measure('Conn-T', '$Conn_T$', lower_is_better=True, digits=2, needs='trimap')
def connectivity_error_in_trimap(pair: Pair) -> float:
    """``Conn`` over the unknown region of the trimap."""
    return _total(pair.once(_connectivity_error)[pair.unknown]) / 1000


def _total(values: np.ndarray) -> float:
    return float(values.sum(dtype=np.float64))


def _absolute_error(pair: Pair) -> np.ndarray:
    return np.abs(pair.matte - pair.true_matte)


def _gradient_error(pair: Pair) -> np.ndarray:
    """Squared difference of the gradient magnitudes, float32 (H, W)."""
    return np.square(_gradient(pair.matte) - _gradient(pair.true_matte))


def _gradient(matte: np.ndarray) -> np.ndarray:
    """Magnitude of the gradient by first derivatives of a Gaussian, float32 (H, W).

    The filters end where the Gaussian is below 0.01, and their squares sum to 1. The border is replicated.
    """
    radius = math.ceil(_SIGMA * math.sqrt(-2 * math.log(math.sqrt(2 * math.pi) * _SIGMA * 0.01)))
    x = np.arange(-radius, radius + 1, dtype=np.float64)
    gaussian = np.exp(-(x**2) / (2 * _SIGMA**2))
    derivative = x * gaussian
    gaussian, derivative = gaussian / np.linalg.norm(gaussian), derivative / np.linalg.norm(derivative)
    border = cv2.BORDER_REPLICATE
    horizontal = cv2.sepFilter2D(matte, cv2.CV_32F, derivative, gaussian, borderType=border)
    vertical = cv2.sepFilter2D(matte, cv2.CV_32F, gaussian, derivative, borderType=border)
    return cv2.magnitude(horizontal, vertical)


def _connectivity_error(pair: Pair) -> np.ndarray:
    """Absolute difference of the degrees of connectivity, float32 (H, W).

    The connected region of a level is the largest 4-connected region where both mattes reach the level. A pixel is
    connected up to the highest level such that it is in the connected region of this and all lower levels. Its degree
    of connectivity is 1 minus the distance of its alpha from that level.
    """
    reached = np.floor(np.minimum(pair.matte, pair.true_matte) * _STEPS + _STEPS * _ROUNDING).astype(np.uint8)
    connected = np.ones(pair.shape, np.uint8)
    level = np.zeros(pair.shape, np.uint8)
    for step in range(1, _STEPS + 1):
        connected &= _largest_region(cv2.compare(reached, step, cv2.CMP_GE))
        if not connected.any():
            break
        level += connected
    level = level / np.float32(_STEPS)
    return np.abs(_degree(pair.matte - level) - _degree(pair.true_matte - level))


def _degree(distance: np.ndarray) -> np.ndarray:
    return 1 - distance * (distance >= _TOLERANCE)


def _largest_region(mask: np.ndarray) -> np.ndarray:
    """The largest 4-connected region of a uint8 (H, W) mask, as 0 and 1; the first of several in reading order."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=4)
    areas = stats[1:, cv2.CC_STAT_AREA]
    return (labels == 1 + areas.argmax()).astype(np.uint8) if areas.size else np.zeros_like(mask)
