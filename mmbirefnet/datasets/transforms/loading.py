"""Loading of images and soft masks."""

from __future__ import annotations

import numpy as np
from mmcv.transforms import BaseTransform

from mmbirefnet.registry import TRANSFORMS

from .decode import read_image, read_mask_levels


# mmseg's inferencers search for a transform of the second name, and replace it with one of the last two.
@TRANSFORMS.register_module(['LoadImage', 'LoadImageFromFile', 'LoadImageFromNDArray', 'InferencerLoader'])
class LoadImage(BaseTransform):
    """Load ``img_path`` as in inference (:func:`~mmbirefnet.imaging.read.load_image`); transparent pixels become gray.

    Adds ``img``, BGR uint8 (H, W, 3), ``img_shape`` and ``ori_shape``, (H, W). An existing ``img`` is kept. The input
    may also be a path or an image, for mmseg's ``MMSegInferencer``.

    Args:
        backend_args: Arguments of mmengine's file backend.

    Raises:
        OSError: If the file is missing, empty, truncated or not an image.
    """

    def __init__(self, backend_args: dict | None = None) -> None:
        self.backend_args = backend_args

    def transform(self, results: dict | str | np.ndarray) -> dict:
        if not isinstance(results, dict):
            results = {'img_path' if isinstance(results, str) else 'img': results}
        if 'img' not in results:
            results['img'] = read_image(results['img_path'], self.backend_args)
        image = results['img']
        results['img_shape'] = results['ori_shape'] = image.shape[:2]
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}(backend_args={self.backend_args})'


@TRANSFORMS.register_module()
class LoadMask(BaseTransform):
    """Load ``seg_map_path`` as a soft mask.

    Adds ``gt_seg_map``, (H, W) of the original image. Its dtype depends on the file, and the transforms of this package
    keep it: uint8 in 0..255, as the reference augments masks and with a quarter of the memory, or float32 in [0, 1] for
    16-bit files that do not fit into 8 bits. :class:`PackDichotomousInputs` converts it to float32 in [0, 1] for losses
    and metrics. After the resize of the image, the mask keeps its original size, which scoring needs. Without
    ``seg_map_path`` (``with_masks=False`` of the data set), nothing is loaded.

    Args:
        backend_args: Arguments of mmengine's file backend.

    Raises:
        OSError: If the file is missing, empty, truncated or not an image.
        ValueError: If it is not a gray mask, or its size differs from that of the image.
    """

    def __init__(self, backend_args: dict | None = None) -> None:
        self.backend_args = backend_args

    def transform(self, results: dict) -> dict:
        if 'seg_map_path' not in results:
            return results
        mask = read_mask_levels(results['seg_map_path'], self.backend_args)
        if mask.shape != tuple(results['ori_shape'][:2]):
            (height, width), (mask_height, mask_width) = results['ori_shape'][:2], mask.shape
            raise ValueError(
                f'image and mask differ in size (EXIF orientation applied): {results["img_path"]} is {width}x{height}, '
                f'{results["seg_map_path"]} is {mask_width}x{mask_height}'
            )
        results['gt_seg_map'] = mask
        results['seg_fields'] = [*results.get('seg_fields', []), 'gt_seg_map']
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}(backend_args={self.backend_args})'
