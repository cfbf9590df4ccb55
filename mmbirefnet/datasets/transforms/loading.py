"""Loading of images and soft masks."""

from __future__ import annotations

import numpy as np
from mmcv.transforms import BaseTransform

from mmbirefnet.registry import TRANSFORMS

from .decode import read_image, read_mask_levels


# mmseg's inferencers look for a transform of the first of the other names, and put one of the last two in its place.
@TRANSFORMS.register_module(['LoadImage', 'LoadImageFromFile', 'LoadImageFromNDArray', 'InferencerLoader'])
class LoadImage(BaseTransform):
    """Load ``img_path`` as inference does (:func:`~mmbirefnet.imaging.read.load_image`), gray where it is transparent.

    Adds ``img`` (BGR uint8, (H, W, 3)), ``img_shape`` and ``ori_shape`` (H, W). An ``img`` that is there already is
    kept. Instead of a dict, a path or an image is taken too, for mmseg's ``MMSegInferencer``.

    Args:
        backend_args: Of mmengine's file backend.

    Raises:
        OSError: The file is missing, empty, truncated or not an image.
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
    """Load ``seg_map_path`` as a soft mask, of the image's original size.

    Adds ``gt_seg_map`` (H, W). Its dtype is decided here, from the file, and the transforms of this package keep it:
    uint8 in 0..255, which the reference augments too and which takes a quarter of the memory, or float32 in [0, 1] for
    16-bit files that 8 bits cannot hold. :class:`PackDichotomousInputs` makes it float32 in [0, 1] for the loss and the
    metric. Placed behind the image's resize, it keeps the mask at its own size, as
    scoring wants it. Without ``seg_map_path`` (a data set with ``with_masks=False``) nothing is loaded.

    Args:
        backend_args: Of mmengine's file backend.

    Raises:
        OSError: The file is missing, empty, truncated or not an image.
        ValueError: It is not a gray mask, or its size is not the image's.
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
