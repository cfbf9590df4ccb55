"""Measures over all thresholds: precision, recall, F-measure and E-measure."""

from __future__ import annotations

import numpy as np

from .pair import Pair
from .registry import register_curve, register_measure

_EPS = np.spacing(1)
_BETA_SQUARED = 0.3


def precision_recall_curves(pair: Pair) -> tuple:
    """Precision and recall at the thresholds 255 ... 0, float64 (256,) each; 0 if the denominator is 0."""
    true_positives, false_positives = pair.threshold_counts
    return _ratio(true_positives, true_positives + false_positives), _ratio(true_positives, pair.foreground)


@register_curve('Fm', maxFm=(np.max, r'$F^{max}_{\beta}$'), meanFm=(np.mean, r'$F^{mean}_{\beta}$'))
def fmeasure_curve(pair: Pair) -> np.ndarray:
    """F-measure with beta^2 = 0.3 at the thresholds 255 ... 0, float64 (256,) (Achanta et al., CVPR 2009).

    It is 0 for an empty mask, and where there are no true positives.
    """
    return _fmeasure(pair, *pair.threshold_counts)


@register_measure('adpFm', r'$F^{adp}_{\beta}$')
def adaptive_fmeasure(pair: Pair) -> float:
    """F-measure with beta^2 = 0.3 at twice the mean of the map (Achanta et al., CVPR 2009)."""
    return float(_fmeasure(pair, *pair.adaptive_counts))


@register_curve('Em', maxEm=(np.max, r'$E^{max}_{\phi}$'), meanEm=(np.mean, r'$E^{mean}_{\phi}$'))
def emeasure_curve(pair: Pair) -> np.ndarray:
    """Enhanced-alignment measure at the thresholds 255 ... 0, float64 (256,) (Fan et al., IJCAI 2018)."""
    return _emeasure(pair, *pair.threshold_counts)


@register_measure('adpEm', r'$E^{adp}_{\phi}$')
def adaptive_emeasure(pair: Pair) -> float:
    """Enhanced-alignment measure at twice the mean of the map (Fan et al., IJCAI 2018)."""
    return float(_emeasure(pair, *pair.adaptive_counts))


def iou_curve(true_positives: np.ndarray, false_positives: np.ndarray, foreground: int) -> np.ndarray:
    """Intersection over union in the shape of the counts; 0 for an empty foreground."""
    return _ratio(true_positives, false_positives + foreground)


def _ratio(numerator, denominator) -> np.ndarray:
    """``numerator / denominator``, and 0 where the denominator is 0."""
    numerator, denominator = np.broadcast_arrays(np.asarray(numerator, np.float64), denominator)
    return np.divide(numerator, denominator, out=np.zeros(numerator.shape), where=denominator != 0)


def _fmeasure(pair: Pair, true_positives, false_positives) -> np.ndarray:
    precision = _ratio(true_positives, true_positives + false_positives)
    recall = _ratio(true_positives, pair.foreground)
    return _ratio((_BETA_SQUARED + 1) * precision * recall, _BETA_SQUARED * precision + recall)


def _emeasure(pair: Pair, true_positives, false_positives):
    """Mean enhanced alignment; for an empty (full) mask, the share of pixels that are predicted negative (positive).

    The published measure divides by the number of pixels minus one, so a perfect map is slightly above 1.
    """
    positives = true_positives + false_positives
    if pair.foreground == 0:
        aligned = pair.size - positives
    elif pair.foreground == pair.size:
        aligned = positives
    else:
        tp, fp = true_positives, false_positives
        fn, tn = pair.foreground - tp, pair.size - pair.foreground - fp
        # Pixels of one cell of the confusion matrix have the same alignment of map and mask, both minus their means.
        map_on, mask_on = 1 - positives / pair.size, 1 - pair.foreground / pair.size
        map_off, mask_off = map_on - 1, mask_on - 1
        aligned = (
            tp * _enhanced_alignment(map_on, mask_on)
            + fp * _enhanced_alignment(map_on, mask_off)
            + fn * _enhanced_alignment(map_off, mask_on)
            + tn * _enhanced_alignment(map_off, mask_off)
        )
    return aligned / (pair.size - 1 + _EPS)


def _enhanced_alignment(x, y):
    return (2 * x * y / (x**2 + y**2 + _EPS) + 1) ** 2 / 4
