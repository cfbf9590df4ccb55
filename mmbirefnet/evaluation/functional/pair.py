"""A prediction and its mask, with everything that several measures need, computed once."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import cv2
import numpy as np

from .skeleton import skeletonize

# cv2.calcHist counts in float32, which is exact up to 2**24.
_EXACT_COUNT = 2**24


class Pair:
    """A predicted map with its mask, and the values that several measures compute from them.

    As in PySODMetrics, most measures stretch the map to [0, 1] (a constant map is only divided by 255). :attr:`binary`
    is the map above 128, not stretched. The map has at most 256 levels, so most measures are computed from histograms
    over the levels, which are counted separately for foreground and background, in the four quadrants around the
    centroid of the mask.

    Args:
        score_map: uint8 (H, W), probability times 255.
        mask: bool (H, W), True for foreground.
        alpha: float32 (H, W) in [0, 1], the soft mask. If given, MAE, MSE and the measures of mattes compare the map
            with it instead of ``mask``.
        stretch_hce: Compute HCE from the stretched map above 0.5, as PySODMetrics does.
        unknown: bool (H, W), the unknown region of a trimap.

    Raises:
        TypeError: If the map is not uint8 or the mask is not bool.
        ValueError: If the shapes differ, are not (H, W), or have fewer than two pixels.
    """

    def __init__(
        self,
        score_map: np.ndarray,
        mask: np.ndarray,
        alpha: np.ndarray | None = None,
        stretch_hce: bool = False,
        unknown: np.ndarray | None = None,
    ) -> None:
        if score_map.dtype != np.uint8:
            raise TypeError(f'score map must be uint8 (probability times 255), got {score_map.dtype}')
        if mask.dtype != np.bool_:
            raise TypeError(f'mask must be bool, got {mask.dtype}')
        if score_map.ndim != 2 or score_map.shape != mask.shape:
            raise ValueError(f'score map and mask must have one shape (H, W), got {score_map.shape} and {mask.shape}')
        if alpha is not None and alpha.shape != mask.shape:
            raise ValueError(f'mask and soft mask must have one shape (H, W), got {mask.shape} and {alpha.shape}')
        if unknown is not None and unknown.shape != mask.shape:
            raise ValueError(f'mask and trimap must have one shape (H, W), got {mask.shape} and {unknown.shape}')
        if mask.size < 2:
            raise ValueError(f'at least two pixels are needed, got shape {mask.shape}')
        self.score_map = np.ascontiguousarray(score_map)
        self.mask = np.ascontiguousarray(mask)
        self.alpha = alpha
        self.stretch_hce = stretch_hce
        self.unknown = unknown
        self._computed: dict[Callable, np.ndarray] = {}
        self.shape = mask.shape
        self.size = mask.size

    def once(self, function: Callable[[Pair], np.ndarray]) -> np.ndarray:
        """``function(self)``, computed only at the first call; for values that several measures share."""
        if function not in self._computed:
            self._computed[function] = function(self)
        return self._computed[function]

    @cached_property
    def matte(self) -> np.ndarray:
        """float32 (H, W): the map in [0, 1], not stretched."""
        return self.score_map * np.float32(1 / 255)

    @cached_property
    def true_matte(self) -> np.ndarray:
        """float32 (H, W): the soft mask in [0, 1], or the binary mask as 0 and 1 if there is no soft one."""
        return self.mask.astype(np.float32) if self.alpha is None else self.alpha

    @cached_property
    def levels(self) -> np.ndarray:
        """float64 (256,): the stretched value in [0, 1] of each 8-bit level that occurs."""
        levels = np.arange(256) / 255
        low, high = (np.flatnonzero(self.histogram)[[0, -1]]).tolist()
        if low != high:
            levels = (levels - levels[low]) / (levels[high] - levels[low])
        return levels

    @cached_property
    def scores(self) -> np.ndarray:
        """float64 (H, W): the stretched map in [0, 1]."""
        return cv2.LUT(self.score_map, self.levels)

    @cached_property
    def binary(self) -> np.ndarray:
        """bool (H, W): the map above 128 of 255, not stretched."""
        return self.score_map > 128

    @cached_property
    def stretched_binary(self) -> np.ndarray:
        """bool (H, W): the stretched map above 0.5."""
        return self.score_map > np.flatnonzero(self.levels <= 0.5)[-1]

    @cached_property
    def skeleton(self) -> np.ndarray:
        """bool (H, W): the skeleton of the mask."""
        return skeletonize(self.mask)

    @cached_property
    def mask_u8(self) -> np.ndarray:
        """uint8 (H, W): 1 for foreground; shares the memory of the mask."""
        return self.mask.view(np.uint8)

    @cached_property
    def centroid(self) -> tuple:
        """(row, column) of the centroid of the foreground, rounded; the image center if there is no foreground."""
        height, width = self.shape
        rows = np.count_nonzero(self.mask, axis=1)
        count = rows.sum()
        if count == 0:
            return round(height / 2), round(width / 2)
        columns = cv2.reduce(self.mask_u8, 0, cv2.REDUCE_SUM, dtype=cv2.CV_32S)[0]
        row = np.round(np.dot(rows, np.arange(height)) / count)
        column = np.round(np.dot(columns.astype(np.int64), np.arange(width)) / count)
        return int(row), int(column)

    @cached_property
    def quadrants(self) -> tuple:
        """Index (rows, columns) of the four quadrants; the centroid is in the upper left one. Some may be empty."""
        row, column = (c + 1 for c in self.centroid)
        up, down, left, right = slice(0, row), slice(row, None), slice(0, column), slice(column, None)
        return (up, left), (up, right), (down, left), (down, right)

    @cached_property
    def quadrant_histograms(self) -> np.ndarray:
        """int64 (4, 2, 256): pixels of background and foreground by 8-bit level, in each quadrant."""
        counts = np.empty((4, 2, 256), np.int64)
        for (background, foreground), index in zip(counts, self.quadrants, strict=True):
            foreground[:] = level_histogram(self.score_map[index], self.mask_u8[index])
            background[:] = level_histogram(self.score_map[index]) - foreground
        return counts

    @cached_property
    def histograms(self) -> np.ndarray:
        """int64 (2, 256): pixels of the background and of the foreground by 8-bit level."""
        return self.quadrant_histograms.sum(axis=0)

    @cached_property
    def histogram(self) -> np.ndarray:
        """int64 (256,): pixels by 8-bit level."""
        return self.histograms.sum(axis=0)

    @cached_property
    def foreground(self) -> int:
        """Number of foreground pixels of the mask."""
        return int(self.histograms[1].sum())

    @cached_property
    def threshold_counts(self) -> tuple:
        """Two int64 (256,): true and false positives at the thresholds 255, 254, ..., 0 (value >= threshold)."""
        # Truncated like the published code, so that rounding does not move a level.
        stretched = (self.levels.clip(0, 1) * 255).astype(np.uint8)
        background, foreground = (np.bincount(stretched, weights=h, minlength=256) for h in self.histograms)
        return np.cumsum(foreground[::-1]).astype(np.int64), np.cumsum(background[::-1]).astype(np.int64)

    @cached_property
    def adaptive_counts(self) -> tuple:
        """True and false positives at twice the mean of the map (at most 1)."""
        threshold = min(2 * (self.histogram @ self.levels) / self.size, 1)
        if np.isclose(self.levels, threshold, rtol=0, atol=1e-9).any():
            # The rounding of the mean may decide on which side a level is, so compute it like the published code.
            threshold = min(2 * self.scores.mean(), 1)
        background, foreground = (int(h[self.levels >= threshold].sum()) for h in self.histograms)
        return foreground, background


def level_histogram(part: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    """int64 (256,): number of pixels by level of a uint8 (H, W) array, where the uint8 mask is not 0 if given."""
    counts = np.zeros(256, np.int64)
    if part.size == 0:
        return counts
    step = max(_EXACT_COUNT // part.shape[1], 1)
    for start in range(0, part.shape[0], step):
        rows = slice(start, start + step)
        strip = None if mask is None else mask[rows]
        counts += cv2.calcHist([part[rows]], [0], strip, [256], [0, 256]).ravel().astype(np.int64)
    return counts
