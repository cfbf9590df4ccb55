"""Geometric transforms of an image together with its soft mask."""

# ruff: noqa: NPY002 (mmengine seeds NumPy's global random state in every worker)

from __future__ import annotations

from collections.abc import Callable

import mmcv
import numpy as np
from mmcv.transforms import BaseTransform
from mmcv.transforms.utils import cache_randomness
from mmseg.datasets.transforms import Resize as MMSegResize
from PIL import Image

from mmbirefnet.registry import TRANSFORMS


@TRANSFORMS.register_module()
class Resize(MMSegResize):
    """mmseg's ``Resize`` that interpolates the mask like the image, so soft edges stay soft.

    Args:
        **kwargs: See :class:`mmcv.transforms.Resize`; ``scale`` is (width, height) in pixels.
    """

    def _resize_seg(self, results: dict) -> None:
        resize = mmcv.imrescale if self.keep_ratio else mmcv.imresize
        for key in results.get('seg_fields', []):
            results[key] = resize(
                results[key], results['scale'], interpolation=self.interpolation, backend=self.backend
            )


@TRANSFORMS.register_module()
class ResizeToBatch(BaseTransform):
    """Resize image and masks to ``batch_scale`` (width, height), the size of the batch.

    :class:`mmbirefnet.datasets.DynamicSizeBatchSampler` chooses the size. The resize is Pillow's bilinear one with
    anti-aliasing, as in the reference implementation for models of dynamic size (torchvision's resize of PIL images).
    Like the reference, put it after the augmentations; it then also averages salt-and-pepper noise.

    Raises:
        KeyError: If there is no ``batch_scale``, because of another batch sampler, or a data set of another project.
    """

    def transform(self, results: dict) -> dict:
        if 'batch_scale' not in results:
            raise KeyError(
                'ResizeToBatch: no batch_scale; it needs train_dataloader.batch_sampler=dict('
                "type='mmbirefnet.DynamicSizeBatchSampler') and a data set of mmbirefnet"
            )
        width, height = size = results['batch_scale']
        old_height, old_width = results['img'].shape[:2]
        _apply(lambda image: image.resize(size, Image.Resampling.BILINEAR), results)
        results.update(
            img_shape=(height, width),
            scale=size,
            scale_factor=(width / old_width, height / old_height),
            keep_ratio=False,
        )
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}()'


@TRANSFORMS.register_module()
class RandomRotate(BaseTransform):
    """Rotate by an integer number of degrees about the center, at the same size, bicubic; corners become 0.

    Args:
        prob: Probability of a rotation.
        max_degrees: Angles are random in [-max_degrees, max_degrees), positive counter-clockwise.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(self, prob: float = 0.2, max_degrees: int = 15) -> None:
        if not 0 <= prob <= 1:
            raise ValueError(f'RandomRotate: prob={prob}, must be in [0, 1]')
        if max_degrees < 1:
            raise ValueError(f'RandomRotate: max_degrees={max_degrees}, must be 1 or greater')
        self.prob = prob
        self.max_degrees = max_degrees

    @cache_randomness
    def draw(self) -> int | None:
        rotate, angle = np.random.rand() < self.prob, np.random.randint(-self.max_degrees, self.max_degrees)
        return int(angle) if rotate else None

    def transform(self, results: dict) -> dict:
        angle = self.draw()
        if angle is not None:
            # PIL, as in the reference: its rotation uses Keys' kernel with a = -1; OpenCV's has a = -0.75.
            _apply(lambda image: image.rotate(angle, Image.Resampling.BICUBIC), results)
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}(prob={self.prob}, max_degrees={self.max_degrees})'


@TRANSFORMS.register_module()
class RandomCenterCrop(BaseTransform):
    """Crop a random border, the same on opposite sides. Put a :class:`Resize` after it.

    Args:
        max_border: Largest share of the shorter side that is removed from width, and from height, in (0, 1).

    Raises:
        ValueError: If ``max_border`` is out of range.
    """

    def __init__(self, max_border: float = 0.1) -> None:
        if not 0 < max_border < 1:
            raise ValueError(f'RandomCenterCrop: max_border={max_border}, must be in (0, 1)')
        self.max_border = max_border

    @cache_randomness
    def draw(self, height: int, width: int) -> tuple[int, int]:
        border = max(int(min(height, width) * self.max_border), 1)
        return np.random.randint(height - border, height), np.random.randint(width - border, width)

    def transform(self, results: dict) -> dict:
        height, width = results['img'].shape[:2]
        crop_height, crop_width = self.draw(height, width)
        rows = slice((height - crop_height) // 2, (height + crop_height) // 2)
        columns = slice((width - crop_width) // 2, (width + crop_width) // 2)
        for key in ['img', *results.get('seg_fields', [])]:
            results[key] = np.ascontiguousarray(results[key][rows, columns])
        results['img_shape'] = results['img'].shape[:2]
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}(max_border={self.max_border})'


def _apply(change: Callable[[Image.Image], Image.Image], results: dict) -> None:
    """Apply ``change`` to the image and the masks as PIL images; float masks stay in [0, 1]."""
    for key in ['img', *results.get('seg_fields', [])]:
        pixels = np.array(change(Image.fromarray(results[key])))
        results[key] = np.clip(pixels, 0, 1) if pixels.dtype == np.float32 else pixels
