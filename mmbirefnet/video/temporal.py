"""Temporal smoothing of predictions: each is averaged with the previous one, warped by optical flow."""

from __future__ import annotations

import cv2
import numpy as np

FLOW_SIDE = 480  # longer side, in pixels, at which motion is estimated
TOLERANCE = 12.0  # sigma in gray levels; the past of pixels that changed by much more is ignored


class TemporalSmoother:
    r"""Recursive average of predictions along the optical flow.

    :math:`s_t = m_t + w (\hat s_{t-1} - m_t)` with the last average :math:`\hat s_{t-1}` warped to this frame by dense
    inverse search flow (Kroeger et al., ECCV 2016) and :math:`w = \text{strength} \cdot e^{-(d / \sigma)^2}`, where d
    is the difference between the warped last frame and this one. Covered regions and cuts thus start a new average.

    Args:
        strength: Weight of the past, in [0, 1); 0 returns predictions unchanged.

    Raises:
        ValueError: If ``strength`` is out of range.
    """

    def __init__(self, strength: float) -> None:
        if not 0 <= strength < 1:
            raise ValueError(f'smoothing={strength!r}, must be in [0, 1)')
        self.strength = strength
        self._flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
        self._gray = self._average = None

    @property
    def state(self) -> tuple[np.ndarray, ...]:
        """Inputs of the next average: the last frame in gray and the last average; empty before the first frame."""
        return () if self._average is None else (self._gray, self._average)

    @state.setter
    def state(self, state: tuple[np.ndarray, ...]) -> None:
        self._gray, self._average = state or (None, None)

    def __call__(self, rgb: np.ndarray, soft_map: np.ndarray) -> np.ndarray:
        """Return the averaged prediction of the next frame.

        Args:
            rgb: The frame, uint8 ``(H, W, 3)``.
            soft_map: Its prediction, float32 ``(H, W)``.
        """
        if not self.strength:
            return soft_map
        gray = _small_gray(rgb)
        if self._average is not None:
            soft_map = soft_map + self._weight_and_past(gray, soft_map)
        self._gray, self._average = gray, soft_map
        return soft_map

    def _weight_and_past(self, gray: np.ndarray, soft_map: np.ndarray) -> np.ndarray:
        """w (past - present), at the size of the prediction."""
        flow = self._flow.calc(gray, self._gray, None)  # from this frame to the last
        moved = _warp(self._gray, flow)
        difference = cv2.blur(cv2.absdiff(gray, moved).astype(np.float32), (5, 5))
        size = soft_map.shape[::-1]
        weight = self.strength * np.exp(-np.square(cv2.resize(difference, size) / TOLERANCE))
        flow = cv2.resize(flow, size) * np.divide(size, gray.shape[::-1]).astype(np.float32)
        return weight * (_warp(self._average, flow) - soft_map)


def _warp(image: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """Sample the image at the position of each pixel plus its flow (x, y)."""
    height, width = image.shape
    columns, rows = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    return cv2.remap(
        image, columns + flow[..., 0], rows + flow[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )


def _small_gray(rgb: np.ndarray) -> np.ndarray:
    gray = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    factor = FLOW_SIDE / max(gray.shape)
    # The patches of the flow need at least 16 pixels.
    size = [max(16, round(side * min(1.0, factor))) for side in gray.shape]
    return cv2.resize(gray, size[::-1], interpolation=cv2.INTER_AREA)
