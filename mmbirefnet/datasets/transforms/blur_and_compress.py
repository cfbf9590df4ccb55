"""Slight blur and JPEG noise, as images from phones and the web have."""

# ruff: noqa: NPY002 (mmengine seeds NumPy's global random state in every worker)

from __future__ import annotations

import cv2
import numpy as np
from mmcv.transforms import BaseTransform
from mmcv.transforms.utils import cache_randomness

from mmbirefnet.registry import TRANSFORMS


@TRANSFORMS.register_module()
class BlurAndCompress(BaseTransform):
    """Gaussian blur, then JPEG compression, each with its own probability; two corruptions of Hendrycks et al. (2019).

    The mask stays as it is.

    Args:
        blur_prob: Probability of a blur.
        sigma: Range of the standard deviation in pixels.
        jpeg_prob: Probability of a compression.
        quality: Range of libjpeg's quality, both ends included.
    """

    def __init__(
        self,
        blur_prob: float = 0.2,
        sigma: tuple[float, float] = (0.3, 1.5),
        jpeg_prob: float = 0.2,
        quality: tuple[int, int] = (40, 95),
    ) -> None:
        if not 0 <= blur_prob <= 1 or not 0 <= jpeg_prob <= 1:
            raise ValueError(f'BlurAndCompress: blur_prob={blur_prob}, jpeg_prob={jpeg_prob}, must be in [0, 1]')
        if not 0 < sigma[0] <= sigma[1]:
            raise ValueError(f'BlurAndCompress: sigma={sigma}, must be 0 < smallest <= largest')
        if not 1 <= quality[0] <= quality[1] <= 100:
            raise ValueError(f'BlurAndCompress: quality={quality}, must be 1 <= lowest <= highest <= 100')
        self.blur_prob = blur_prob
        self.sigma = tuple(sigma)
        self.jpeg_prob = jpeg_prob
        self.quality = tuple(quality)

    @cache_randomness
    def draw(self) -> tuple[float | None, int | None]:
        """Standard deviation and quality; None for no change."""
        blur, compress = np.random.rand(2) < (self.blur_prob, self.jpeg_prob)
        sigma, quality = np.random.uniform(*self.sigma), np.random.randint(self.quality[0], self.quality[1] + 1)
        return float(sigma) if blur else None, int(quality) if compress else None

    def transform(self, results: dict) -> dict:
        sigma, quality = self.draw()
        if sigma is not None:
            results['img'] = cv2.GaussianBlur(results['img'], (0, 0), sigma)
        if quality is not None:
            _, data = cv2.imencode('.jpg', results['img'], [cv2.IMWRITE_JPEG_QUALITY, quality])
            results['img'] = cv2.imdecode(data, cv2.IMREAD_COLOR)
        return results

    def __repr__(self) -> str:
        return (
            f'{type(self).__name__}(blur_prob={self.blur_prob}, sigma={self.sigma}, jpeg_prob={self.jpeg_prob}, '
            f'quality={self.quality})'
        )
