"""Coarse masks for guided models, made from the ground truth."""

# ruff: noqa: NPY002 (mmengine seeds NumPy's global random state in every worker)

from __future__ import annotations

import zlib

import cv2
import numpy as np
from mmcv.transforms import BaseTransform

from mmbirefnet.registry import TRANSFORMS

from .decode import mask_to_float

MIN_COMPONENT = 0.002  # share of the image; smaller components are specks, not objects
MIN_LEFT = 0.25  # share of the mask that must remain; erosion would remove thin objects
OPERATIONS = ('erode', 'dilate', 'holes', 'shift', 'coarsen', 'box')


@TRANSFORMS.register_module()
class CoarseMask(BaseTransform):
    """Degrade the ground truth to a coarse mask, to train :class:`~mmbirefnet.models.GuidedBiRefNet`.

    Adds ``guide``, float32 ``(H, W)`` in [0, 1]. Like the perturbed masks of CascadePSP (Cheng et al., 2020, Sec. 3.4):
    each operation is applied with its own probability, in random order. Sizes are relative to the size of the object,
    the square root of its area.

    - erode, dilate: by an ellipse with a radius of up to ``strength``.
    - holes: up to three discs with a radius of up to ``strength`` are removed or added near the object.
    - shift: by up to ``strength`` in both directions.
    - coarsen: reduced to 8 to 32 cells along the longer side and enlarged bilinearly, like masks of small networks.
    - box: replaced by the bounding box.

    An operation that would leave less than a quarter of the mask is skipped.

    Put it after all geometric transforms, directly before packing.

    Args:
        prob: Probability of each operation.
        strength: Size of the degradations as a share of the size of the object, in [0, 1].
        box_prob: Probability of the bounding box.
        drop: Probability of no coarse mask, so that the model also learns to work without one.
        select: Probability to keep only one random component of a ground truth with several, in the ground truth and in
            the coarse mask, which is then not dropped. This trains the model to select an object.
        seed: If given, the degradation depends only on it and on the stem of the file, for validation.

    Raises:
        ValueError: If a probability or ``strength`` is not in [0, 1].
    """

    def __init__(
        self,
        prob: float = 0.4,
        strength: float = 0.25,
        box_prob: float = 0.1,
        drop: float = 0.2,
        select: float = 0.5,
        seed: int | None = None,
    ) -> None:
        for name, value in (('prob', prob), ('box_prob', box_prob), ('drop', drop), ('select', select)):
            if not 0 <= value <= 1:
                raise ValueError(f'CoarseMask: {name}={value}, must be in [0, 1]')
        if not 0 <= strength <= 1:
            raise ValueError(f'CoarseMask: strength={strength}, must be in [0, 1]')
        self.prob = prob
        self.strength = strength
        self.box_prob = box_prob
        self.drop = drop
        self.select = select
        self.seed = seed

    def transform(self, results: dict) -> dict:
        if 'gt_seg_map' not in results:
            return results
        rng = self._generator(results)
        mask = mask_to_float(results['gt_seg_map'])
        chosen = _choose_component(mask, rng) if rng.random() < self.select else None
        if chosen is not None:
            results['gt_seg_map'] = np.where(chosen, results['gt_seg_map'], 0).astype(results['gt_seg_map'].dtype)
            mask = np.where(chosen, mask, np.float32(0))
        elif rng.random() < self.drop:
            return results
        for operation in rng.permutation(OPERATIONS):
            if mask.max() >= 0.5 and rng.random() < (self.box_prob if operation == 'box' else self.prob):
                degraded = getattr(self, operation)(mask, rng)
                mask = degraded if degraded.sum() >= MIN_LEFT * mask.sum() else mask
        results['guide'] = mask
        return results

    def _generator(self, results: dict) -> np.random.Generator:
        if self.seed is None:
            return np.random.default_rng(np.random.randint(2**31))
        name = str(results.get('stem', results.get('img_path', '')))
        return np.random.default_rng([self.seed, zlib.crc32(name.encode(errors='surrogateescape'))])

    def _length(self, mask: np.ndarray, rng: np.random.Generator) -> float:
        """A random length in pixels, up to ``strength`` times the size of the object."""
        return rng.random() * self.strength * float(np.sqrt((mask >= 0.5).sum()))

    def _disc(self, mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        radius = max(round(self._length(mask, rng)), 1)
        return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1,) * 2)

    def erode(self, mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return cv2.erode(mask, self._disc(mask, rng))

    def dilate(self, mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return cv2.dilate(mask, self._disc(mask, rng))

    def holes(self, mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        rows, columns = np.nonzero(mask >= 0.5)
        holed = mask.copy()
        for _ in range(rng.integers(1, 4)):
            index = rng.integers(len(rows))
            offset = rng.normal(0, self._length(mask, rng) + 1, 2)
            center = round(float(columns[index] + offset[0])), round(float(rows[index] + offset[1]))
            cv2.circle(holed, center, max(round(self._length(mask, rng)), 1), float(rng.random() < 0.3), cv2.FILLED)
        return holed

    def shift(self, mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        x, y = (self._length(mask, rng) * rng.choice([-1, 1]) for _ in range(2))
        return cv2.warpAffine(mask, np.float32([[1, 0, x], [0, 1, y]]), mask.shape[::-1])

    def coarsen(self, mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        scale = rng.integers(8, 33) / max(mask.shape)
        small = tuple(max(round(side * scale), 1) for side in mask.shape[::-1])
        coarse = cv2.resize(mask, small, interpolation=cv2.INTER_AREA).clip(0, 1)  # means may exceed 1 by rounding
        return cv2.resize(coarse, mask.shape[::-1])

    def box(self, mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        rows, columns = np.nonzero(mask >= 0.5)
        boxed = np.zeros_like(mask)
        boxed[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] = 1
        return boxed

    def __repr__(self) -> str:
        return (
            f'{type(self).__name__}(prob={self.prob}, strength={self.strength}, box_prob={self.box_prob}, '
            f'drop={self.drop}, select={self.select}, seed={self.seed})'
        )


def _choose_component(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray | None:
    """A random connected component with its soft edge, bool ``(H, W)``; ``None`` if there is only one."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats((mask > 0).astype(np.uint8), connectivity=8)
    large = [label for label in range(1, count) if stats[label, cv2.CC_STAT_AREA] >= MIN_COMPONENT * mask.size]
    return labels == rng.choice(large) if len(large) > 1 else None
