"""Random crops that contain the object, and crops at its edges."""

# ruff: noqa: NPY002 (mmengine seeds NumPy's global random state in every worker)

from __future__ import annotations

import cv2
import numpy as np
from mmcv.transforms import BaseTransform
from mmcv.transforms.utils import cache_randomness

from mmbirefnet.registry import TRANSFORMS

from .decode import mask_to_float


@TRANSFORMS.register_module()
class RandomZoomCrop(BaseTransform):
    """Crop a random part of the image and its masks. A :class:`Resize` after it makes it a zoom.

    Like the random resized crop of Szegedy et al. (2015, Sec. 6), but it keeps the aspect ratio of the image up to
    ``max_stretch``, since shapes matter here, and it does not lose the object.

    Args:
        prob: Probability of a crop.
        min_side: Smallest share of width and height that is kept, in (0, 1].
        max_stretch: Largest ratio between the two shares, 1 or greater.
        min_object: Smallest share of the object that the crop must contain. If ten random crops contain less, the image
            is not cropped. With an empty mask, any crop is accepted.

    Raises:
        ValueError: If an argument is out of range.
    """

    ATTEMPTS = 10

    def __init__(
        self, prob: float = 0.5, min_side: float = 0.5, max_stretch: float = 4 / 3, min_object: float = 0.5
    ) -> None:
        if not 0 <= prob <= 1 or not 0 < min_side <= 1 or not 0 <= min_object <= 1:
            raise ValueError(
                f'RandomZoomCrop: prob={prob}, min_side={min_side}, min_object={min_object}, must be in [0, 1]'
            )
        if max_stretch < 1:
            raise ValueError(f'RandomZoomCrop: max_stretch={max_stretch}, must be 1 or greater')
        self.prob = prob
        self.min_side = min_side
        self.max_stretch = max_stretch
        self.min_object = min_object

    @cache_randomness
    def draw(self) -> np.ndarray:
        """Shares of height and width, and the position of the crop in the rest, (10, 4); empty for no crop."""
        count = self.ATTEMPTS if np.random.rand() < self.prob else 0
        side = np.random.uniform(self.min_side, 1, count)
        stretch = np.sqrt(np.exp(np.random.uniform(-1, 1, count) * np.log(self.max_stretch)))
        shares = np.clip([side * stretch, side / stretch], self.min_side, 1)
        return np.stack([*shares, *np.random.rand(2, count)], 1)

    def transform(self, results: dict) -> dict:
        height, width = results['img'].shape[:2]
        mask = results.get('gt_seg_map')
        total = 0 if mask is None else mask.sum(dtype=np.float64)
        for share_y, share_x, at_y, at_x in self.draw():
            crop_height, crop_width = max(round(share_y * height), 1), max(round(share_x * width), 1)
            top, left = round(at_y * (height - crop_height)), round(at_x * (width - crop_width))
            box = slice(top, top + crop_height), slice(left, left + crop_width)
            if total and mask[box].sum(dtype=np.float64) < self.min_object * total:
                continue
            return crop(results, box)
        return results

    def __repr__(self) -> str:
        return (
            f'{type(self).__name__}(prob={self.prob}, min_side={self.min_side}, max_stretch={self.max_stretch}, '
            f'min_object={self.min_object})'
        )


def crop(results: dict, box: tuple[slice, slice]) -> dict:
    """Crop the image and its masks to rows and columns."""
    for key in ['img', *results.get('seg_fields', [])]:
        results[key] = np.ascontiguousarray(results[key][box])
    results['img_shape'] = results['img'].shape[:2]
    return results


@TRANSFORMS.register_module()
class EdgeCrop(BaseTransform):
    """Crop a window around a random pixel of the object's edge, as Xu et al. (2017, Sec. 3.2) do for matting.

    The edge is where the mask is gray, or where 3x3 pixels of it contain both object and background. Windows are moved
    to be inside the image. The crop keeps its resolution, so training sees details of large images at full size, with
    the memory of a small image. Images without an edge are cropped at a random position.

    Args:
        size: (width, height) of the window in pixels; smaller sides of an image are kept.
        prob: Probability of a crop.

    Raises:
        ValueError: If an argument is out of range.
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
    """A slice of ``length`` around ``center`` within 0..end."""
    length = min(length, end)
    start = int(np.clip(center - length // 2, 0, end - length))
    return slice(start, start + length)
