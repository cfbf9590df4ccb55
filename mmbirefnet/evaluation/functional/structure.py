"""S-measure (Fan et al., ICCV 2017) and mean errors, computed from histograms."""

import numpy as np

from .pair import Pair
from .registry import register_measure

_EPS = np.spacing(1)


@register_measure('MAE', r'$\mathcal{M}$', lower_is_better=True)
def mean_absolute_error(pair: Pair) -> float:
    """Mean absolute error (Perazzi et al., CVPR 2012) of stretched map and mask, or of map and soft mask."""
    if pair.alpha is not None:
        return float(np.abs(_difference(pair)).mean(dtype=np.float64))
    background, foreground = pair.histograms
    return float((background @ pair.levels + foreground @ (1 - pair.levels)) / pair.size)


@register_measure('MSE', '$MSE$', lower_is_better=True)
def mean_squared_error(pair: Pair) -> float:
    """Mean squared error of stretched map and mask, or of map and soft mask."""
    if pair.alpha is not None:
        return float(np.square(_difference(pair)).mean(dtype=np.float64))
    background, foreground = pair.histograms
    return float((background @ pair.levels**2 + foreground @ (1 - pair.levels) ** 2) / pair.size)


def _difference(pair: Pair) -> np.ndarray:
    """Map minus soft mask, float32 (H, W); not stretched, since the gray levels of a matte matter."""
    return pair.matte - pair.alpha


@register_measure('Smeasure', r'$S_{\alpha}$')
def smeasure(pair: Pair, alpha: float = 0.5) -> float:
    """S-measure: ``alpha`` times the object-aware part plus ``1 - alpha`` times the region-aware part.

    It is 1 minus the mean of the map for an empty mask, and the mean of the map for a full one.
    """
    if pair.foreground == 0:
        return float(1 - pair.histogram @ pair.levels / pair.size)
    if pair.foreground == pair.size:
        return float(pair.histogram @ pair.levels / pair.size)
    return float(max(0.0, alpha * _object_score(pair) + (1 - alpha) * _region_score(pair)))


def _object_score(pair: Pair) -> float:
    share = pair.foreground / pair.size
    background, foreground = pair.histograms
    return share * _uniformity(foreground, pair.levels) + (1 - share) * _uniformity(background, 1 - pair.levels)


def _uniformity(counts: np.ndarray, values: np.ndarray) -> float:
    """2m / (m^2 + 1 + s), with mean m and standard deviation s of the values, which occur ``counts`` times."""
    total = counts.sum()
    mean = counts @ values / total
    deviation = np.sqrt(counts @ (values - mean) ** 2 / (total - 1)) if total > 1 else 0.0
    return 2 * mean / (mean**2 + 1 + deviation + _EPS)


def _region_score(pair: Pair) -> float:
    score = 0.0
    for index, counts in zip(pair.quadrants, pair.quadrant_histograms, strict=True):
        # A quadrant without pixels (centroid on the last row or column) has no weight.
        if counts.any():
            score += counts.sum() / pair.size * _ssim(counts, pair, index)
    return score


def _ssim(counts: np.ndarray, pair: Pair, index: tuple) -> float:
    """SSIM of map and mask over one quadrant, from int64 (2, 256) counts of background and foreground."""
    background, foreground = counts
    occupied = counts.sum(axis=0)
    total = occupied.sum()
    # For a constant map, the published code returns 1 or 0 by the rounding of the mean, so compute the same mean.
    constant = np.count_nonzero(occupied) == 1
    mean_map = pair.scores[index].mean() if constant else occupied @ pair.levels / total
    mean_mask = foreground.sum() / total
    deviation = pair.levels - mean_map
    normalizer = total - 1 + _EPS
    var_map = occupied @ deviation**2 / normalizer
    var_mask = (background.sum() * mean_mask**2 + foreground.sum() * (1 - mean_mask) ** 2) / normalizer
    covariance = (foreground @ deviation * (1 - mean_mask) - background @ deviation * mean_mask) / normalizer

    numerator = 4 * mean_map * mean_mask * covariance
    denominator = (mean_map**2 + mean_mask**2) * (var_map + var_mask)
    if numerator != 0:
        return numerator / (denominator + _EPS)
    return 1.0 if denominator == 0 else 0.0
