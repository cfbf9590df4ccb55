"""Distinguish soft masks (alpha mattes) from hard masks with anti-aliased edges."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from mmengine.dataset import BaseDataset

from .transforms.decode import read_mask

_GRAY = (0.06, 0.94)  # excludes the noise that JPEG adds around black and white
_EDGE = 5  # pixels; anti-aliased edges are narrower, even in slightly enlarged masks
_LEAST_AREA = 0.02  # share of the object's pixels
_LEAST_MASKS = 0.1


def is_soft(alpha: np.ndarray) -> bool:
    """Whether a mask is gray over areas (hair, glass, blur) and not only along edges.

    A mask is soft if at least 2 % of the object's pixels are the center of a 5x5 square of gray pixels.

    Args:
        alpha: Mask, float32 (H, W) in [0, 1].
    """
    low, high = _GRAY
    gray = ((alpha > low) & (alpha < high)).astype(np.uint8)
    wide = cv2.erode(gray, np.ones((_EDGE, _EDGE), np.uint8))
    return bool(wide.sum() >= max(_LEAST_AREA * (alpha > low).sum(), 1))


def count_soft(dataset: BaseDataset, images: int) -> tuple[int, int]:
    """Count the soft masks of a data set.

    Args:
        dataset: Data set whose items have a ``seg_map_path``.
        images: Number of masks to inspect, spread evenly over the data set.

    Returns:
        Number of soft masks, and number of inspected masks.
    """
    indices = np.unique(np.linspace(0, len(dataset) - 1, min(images, len(dataset))).round().astype(int))
    paths = [dataset.get_data_info(int(index))['seg_map_path'] for index in indices]
    return sum(is_soft(read_mask(path)) for path in paths), len(paths)


def are_soft(counts: Sequence[int]) -> bool:
    """Whether a data set has soft masks: at least a tenth of those that :func:`count_soft` inspected."""
    soft, seen = counts
    return soft >= _LEAST_MASKS * seen and soft > 0
