"""Whether masks are mattes, whose gray levels mean something, or outlines with smooth edges."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from mmengine.dataset import BaseDataset

from .transforms.decode import read_mask

_GRAY = (0.06, 0.94)  # JPEG's noise around black and white is none
_EDGE = 5  # pixels; edges are narrower, also where a mask has been enlarged a little
_LEAST_AREA = 0.02  # of the object's pixels
_LEAST_MASKS = 0.1


def is_soft(alpha: np.ndarray) -> bool:
    """Whether a mask is gray over areas, as hair, glass and blur are in mattes, and not along edges alone.

    That is, whether 5x5 squares of gray are centered at 2 % of the object's pixels or more.

    Args:
        alpha: Mask, float32 (H, W) in [0, 1].
    """
    low, high = _GRAY
    gray = ((alpha > low) & (alpha < high)).astype(np.uint8)
    wide = cv2.erode(gray, np.ones((_EDGE, _EDGE), np.uint8))
    return bool(wide.sum() >= max(_LEAST_AREA * (alpha > low).sum(), 1))


def count_soft(dataset: BaseDataset, images: int) -> tuple[int, int]:
    """How many of a data set's masks are soft, and how many were looked at.

    Args:
        dataset: Its items have a ``seg_map_path``.
        images: Masks to look at, spread evenly over the data set.
    """
    indices = np.unique(np.linspace(0, len(dataset) - 1, min(images, len(dataset))).round().astype(int))
    paths = [dataset.get_data_info(int(index))['seg_map_path'] for index in indices]
    return sum(is_soft(read_mask(path)) for path in paths), len(paths)


def are_soft(counts: Sequence[int]) -> bool:
    """Whether a data set is one of mattes, from what :func:`count_soft` gives: a tenth of the masks are soft."""
    soft, seen = counts
    return soft >= _LEAST_MASKS * seen and soft > 0
