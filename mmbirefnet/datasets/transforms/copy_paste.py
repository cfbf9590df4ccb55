"""A second object, pasted from another image."""

# ruff: noqa: NPY002 (mmengine seeds NumPy's global random state in every worker)

from __future__ import annotations

import cv2
import numpy as np
from mmcv.transforms import BaseTransform
from mmcv.transforms.utils import cache_randomness

from mmbirefnet.registry import TRANSFORMS

from .decode import mask_to_float, read_image, read_mask_levels


@TRANSFORMS.register_module()
class CopyPaste(BaseTransform):
    """Paste the object of another image of the data set into this one (Ghiasi et al., 2021).

    The object is cut out with its mask ``a``, scaled, and composited at a random place:
    ``image = a * object + (1 - a) * image``, and ``mask = a + (1 - a) * mask``. It needs a data set of this project,
    whose samples have ``draw_other``. Put it before the resize.

    Args:
        prob: Probability of a second object.
        scale: Range of the longer side of the object as a share of the shorter side of the image.

    Raises:
        ValueError: If an argument is out of range, or the second image and its mask differ in size.
        KeyError: If the sample has no ``draw_other``.
    """

    def __init__(self, prob: float = 0.3, scale: tuple[float, float] = (0.25, 0.75)) -> None:
        if not 0 <= prob <= 1:
            raise ValueError(f'CopyPaste: prob={prob}, must be in [0, 1]')
        if not 0 < scale[0] <= scale[1] <= 1:
            raise ValueError(f'CopyPaste: scale={scale}, must be 0 < smallest <= largest <= 1')
        self.prob = prob
        self.scale = tuple(scale)

    @cache_randomness
    def draw(self) -> tuple[bool, float, float, float]:
        """Whether to paste, the scale, and the position as shares of the free space."""
        return np.random.rand() < self.prob, np.random.uniform(*self.scale), *np.random.rand(2)

    def transform(self, results: dict) -> dict:
        wanted, scale, at_y, at_x = self.draw()
        if not wanted:
            return results
        if 'draw_other' not in results:
            raise KeyError('CopyPaste: no draw_other; it needs a data set of mmbirefnet in training mode')
        other = results['draw_other']()
        item, alpha = _cut_out(other['img_path'], other['seg_map_path'])
        if item is None:
            return results
        height, width = results['img'].shape[:2]
        factor = scale * min(height, width) / max(alpha.shape)
        size = max(round(alpha.shape[1] * factor), 1), max(round(alpha.shape[0] * factor), 1)
        interpolation = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
        item, alpha = (cv2.resize(x, size, interpolation=interpolation) for x in (item, alpha))
        top, left = round(at_y * (height - size[1])), round(at_x * (width - size[0]))
        box = slice(top, top + size[1]), slice(left, left + size[0])
        image, mask = results['img'].copy(), results['gt_seg_map'].copy()
        white = 1 if mask.dtype == np.float32 else 255
        under = image[box].astype(np.float32)
        image[box] = np.rint(under + alpha[..., None] * (item - under))
        covered = alpha + (1 - alpha) * mask_to_float(mask[box])
        mask[box] = covered if white == 1 else np.rint(covered * white)
        results['img'], results['gt_seg_map'] = image, mask
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}(prob={self.prob}, scale={self.scale})'


def _cut_out(image_path: str, mask_path: str) -> tuple[np.ndarray | None, np.ndarray | None]:
    """The object in its bounding box, float32 (H, W, 3), and its mask in [0, 1]; ``None`` for an empty mask."""
    alpha = mask_to_float(read_mask_levels(mask_path))
    image = read_image(image_path)
    if image.shape[:2] != alpha.shape:
        raise ValueError(f'{image_path} and {mask_path} differ in size: {image.shape[:2]} and {alpha.shape}')
    rows, columns = alpha.any(1).nonzero()[0], alpha.any(0).nonzero()[0]
    if not len(rows):
        return None, None
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    return image[box].astype(np.float32), alpha[box]
