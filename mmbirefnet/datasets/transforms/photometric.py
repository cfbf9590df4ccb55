"""Transforms of the image only: color, noise, background, blur and compression."""

# ruff: noqa: NPY002 (mmengine seeds NumPy's global random state in every worker)

from __future__ import annotations

import cv2
import numpy as np
from mmcv.transforms import BaseTransform
from mmcv.transforms.utils import cache_randomness
from PIL import Image, ImageEnhance

from mmbirefnet.registry import TRANSFORMS

from .decode import mask_to_float


@TRANSFORMS.register_module()
class ColorEnhance(BaseTransform):
    """Brightness, contrast, color and sharpness of PIL's ``ImageEnhance``, in this order, on RGB.

    Each factor is random in its range, in steps of 0.1, both ends included; a factor of 1 changes nothing.

    Args:
        brightness, contrast, color, sharpness: Range (smallest, largest) of the factor.

    Raises:
        ValueError: If a range is invalid.
    """

    def __init__(
        self,
        brightness: tuple[float, float] = (0.5, 1.5),
        contrast: tuple[float, float] = (0.5, 1.5),
        color: tuple[float, float] = (0.0, 2.0),
        sharpness: tuple[float, float] = (0.0, 3.0),
    ) -> None:
        self.ranges = {'Brightness': brightness, 'Contrast': contrast, 'Color': color, 'Sharpness': sharpness}
        for name, (low, high) in self.ranges.items():
            if not 0 <= low <= high:
                raise ValueError(f'ColorEnhance: {name.lower()}=({low}, {high}), must be 0 <= smallest <= largest')

    @cache_randomness
    def draw(self) -> dict[str, float]:
        ends = {name: (round(low * 10), round(high * 10)) for name, (low, high) in self.ranges.items()}
        return {name: np.random.randint(low, high + 1) / 10 for name, (low, high) in ends.items()}

    def transform(self, results: dict) -> dict:
        image = Image.fromarray(np.ascontiguousarray(results['img'][..., ::-1]))
        for name, factor in self.draw().items():
            image = getattr(ImageEnhance, name)(image).enhance(factor)
        results['img'] = np.ascontiguousarray(np.asarray(image)[..., ::-1])
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}({", ".join(f"{name.lower()}={ends}" for name, ends in self.ranges.items())})'


@TRANSFORMS.register_module()
class SaltAndPepper(BaseTransform):
    """Set random pixels to black or white; a pixel may be chosen twice.

    Args:
        ratio: Number of changes as a share of the number of pixels, rounded down.

    Raises:
        ValueError: If ``ratio`` is not in [0, 1].
    """

    def __init__(self, ratio: float = 0.0015) -> None:
        if not 0 <= ratio <= 1:
            raise ValueError(f'SaltAndPepper: ratio={ratio}, must be in [0, 1]')
        self.ratio = ratio

    @cache_randomness
    def draw(self, height: int, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        count = int(self.ratio * height * width)
        return tuple(np.random.randint(0, end, count) for end in (height, width, 2))

    def transform(self, results: dict) -> dict:
        rows, columns, white = self.draw(*results['img'].shape[:2])
        image = results['img'].copy()
        image[rows, columns] = 255 * white[:, None].astype(np.uint8)
        results['img'] = image
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}(ratio={self.ratio})'


@TRANSFORMS.register_module()
class SyntheticBackground(BaseTransform):
    """Put the object, cut out by its mask, on a flat background.

    The background is a gray level (``gray``), a color near the mean of the object (``similar``: the mean, shifted by
    up to 20 % of the distance to white or black), or any color (``any``). An empty mask has no mean, so ``similar``
    uses any color.

    Args:
        prob: Probability of a new background.
        weights: Probabilities of ``gray``, ``similar`` and ``any``; their sum is 1.
        max_shift: Largest shift of ``similar``, as a share of the distance to white or black.

    Raises:
        ValueError: If an argument is out of range, or ``weights`` do not sum to 1.
    """

    BACKGROUND_COLORS = ('gray', 'similar', 'any')

    def __init__(
        self, prob: float = 1.0, weights: tuple[float, float, float] = (0.4, 0.4, 0.2), max_shift: float = 0.2
    ) -> None:
        if not 0 <= prob <= 1 or not 0 <= max_shift <= 1:
            raise ValueError(f'SyntheticBackground: prob={prob}, max_shift={max_shift}, must be in [0, 1]')
        if len(weights) != 3 or min(weights) < 0 or not np.isclose(sum(weights), 1):
            raise ValueError(f'SyntheticBackground: weights={weights}, must be 3 probabilities whose sum is 1')
        self.prob = prob
        self.weights = tuple(weights)
        self.max_shift = max_shift

    @cache_randomness
    def draw(self) -> tuple[str | None, np.ndarray, float]:
        """Kind (``None``: no change), a color (3,) in 0..255, and a shift in [-max_shift, max_shift]."""
        kind = np.random.choice(self.BACKGROUND_COLORS, p=self.weights) if np.random.rand() < self.prob else None
        color = np.random.randint(0, 256, 3)
        return kind, color, np.random.uniform(-self.max_shift, self.max_shift)

    def transform(self, results: dict) -> dict:
        kind, color, shift = self.draw()
        if kind is None:
            return results
        image, mask = results['img'].astype(np.float32), mask_to_float(results['gt_seg_map'])[..., None]
        if kind == 'gray':
            color = color[[0, 0, 0]]
        elif kind == 'similar' and mask.any():
            mean = (image * mask).sum((0, 1), dtype=np.float64) / mask.sum(dtype=np.float64)
            color = mean + abs(shift) * ((255 if shift > 0 else 0) - mean)
        image = image * mask + np.asarray(color, np.float32) * (1 - mask)
        results['img'] = image.astype(np.uint8)
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}(prob={self.prob}, weights={self.weights}, max_shift={self.max_shift})'


@TRANSFORMS.register_module()
class BlurAndCompress(BaseTransform):
    """Gaussian blur, then JPEG compression, each with its own probability; two corruptions of Hendrycks et al. (2019).

    The mask does not change.

    Args:
        blur_prob: Probability of a blur.
        sigma: Range of the standard deviation in pixels.
        jpeg_prob: Probability of a compression.
        quality: Range of the quality of libjpeg, 1 to 100, both ends included.

    Raises:
        ValueError: If an argument is out of range.
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
        """Standard deviation and quality; ``None`` for no change."""
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
