"""Random zoom by cropping."""

# ruff: noqa: NPY002 (mmengine seeds NumPy's global random state in every worker)

from __future__ import annotations

import numpy as np
from mmcv.transforms import BaseTransform
from mmcv.transforms.utils import cache_randomness

from mmbirefnet.registry import TRANSFORMS


@TRANSFORMS.register_module()
class RandomZoomCrop(BaseTransform):
    """Crop a random part of the image and its masks; put a :class:`Resize` behind it, which makes it a zoom.

    As the random resized crop of Szegedy et al. (2015, Sec. 6), but with the image's own aspect ratio up to
    ``max_stretch``, since the shape of an object matters here, and without crops that lose the object.

    Args:
        prob: Probability of a crop.
        min_side: Smallest share of width and height that is kept, in (0, 1].
        max_stretch: Largest ratio between the two shares, 1 or greater.
        min_object: Smallest share of the object that the crop must hold. After ten crops with less, the image is left
            as it is. An empty mask is cropped anywhere.
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
        """Shares of height and width, and where in the rest the crop begins; (10, 4), empty for no crop."""
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
