"""Crops around the object's edge."""

# ruff: noqa: NPY002 (mmengine seeds NumPy's global random state in every worker)

from __future__ import annotations

import cv2
import numpy as np
from mmcv.transforms import BaseTransform
from mmcv.transforms.utils import cache_randomness

from mmbirefnet.registry import TRANSFORMS

from .decode import mask_to_float
from .zoom_crop import crop


@TRANSFORMS.register_module()
class EdgeCrop(BaseTransform):
    """Crop a window centered on a random pixel of the object's edge, as Xu et al. (2017, Sec. 3.2) do for matting.

    The edge is where the mask is gray, or where 3x3 pixels of it hold both object and background. Windows that reach
    over the border are moved inside. The crop keeps its resolution, so details of large images are trained on at
    full size and in the memory of a small one. Images without an edge are cropped anywhere.

    Args:
        size: (width, height) of the window in pixels; of a smaller image all is kept.
        prob: Probability of a crop.
    """

    def __init__(self, size: tuple[int, int], prob: float = 1.0) -> None:
        if len(size) != 2 or min(size) < 1:
            raise ValueError(f'EdgeCrop: size={size}, must be (width, height) in pixels')
        if not 0 <= prob <= 1:
            raise ValueError(f'EdgeCrop: prob={prob}, must be in [0, 1]')
        self.size = tuple(size)
        self.prob = prob

    @cache_randomness
    def draw(self) -> tuple[bool, float, float]:
        """Whether to crop, which of the edge's pixels, and where to crop without an edge."""
        return np.random.rand() < self.prob, *np.random.rand(2)

    def transform(self, results: dict) -> dict:
        wanted, which, other = self.draw()
        if not wanted:
            return results
        mask = mask_to_float(results['gt_seg_map'])
        kernel = np.ones((3, 3), np.uint8)
        rows, columns = np.nonzero(cv2.dilate(mask, kernel) - cv2.erode(mask, kernel) > 0.5)
        gray_rows, gray_columns = np.nonzero((mask > 0) & (mask < 1))
        rows, columns = np.concatenate([rows, gray_rows]), np.concatenate([columns, gray_columns])
        height, width = mask.shape
        index = int(which * len(rows))
        y, x = (rows[index], columns[index]) if len(rows) else (int(which * height), int(other * width))
        return crop(results, (_window(y, self.size[1], height), _window(x, self.size[0], width)))

    def __repr__(self) -> str:
        return f'{type(self).__name__}(size={self.size}, prob={self.prob})'


def _window(center: int, length: int, end: int) -> slice:
    """A slice of ``length`` around ``center``, inside 0..end."""
    length = min(length, end)
    start = int(np.clip(center - length // 2, 0, end - length))
    return slice(start, start + length)
