"""Pictures of one sample: image, mask, map and error as panels of one size."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

GAP = 4  # pixels between panels
BACKGROUND = 255


def fit(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize to ``size`` (height, width): averaged where it shrinks, bilinear where it grows."""
    if image.shape[:2] == size:
        return image
    shrinks = image.shape[0] >= size[0] and image.shape[1] >= size[1]
    return cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def bounded_size(shape: Sequence[int], longest: int) -> tuple[int, int]:
    """(height, width) in the proportions of ``shape``, neither above ``longest``; never larger than ``shape``."""
    height, width = shape[:2]
    scale = min(1.0, longest / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def error_panel(score_map: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """RGB uint8 (H, W, 3): too much in red, too little in blue, on the dimmed mask; the stronger, the more wrong.

    Args:
        score_map: uint8 (H, W).
        mask: uint8 (H, W).
    """
    difference = score_map.astype(np.int16) - mask
    base = (mask // 4).astype(np.int16)
    channels = [base + np.maximum(difference, 0), base, base + np.maximum(-difference, 0)]
    return np.stack(channels, axis=-1).clip(0, 255).astype(np.uint8)


def side_by_side(panels: Sequence[np.ndarray]) -> np.ndarray:
    """RGB uint8: panels of one size, grey (H, W) or RGB (H, W, 3), from left to right."""
    panels = [cv2.cvtColor(p, cv2.COLOR_GRAY2RGB) if p.ndim == 2 else p for p in panels]
    gap = np.full((panels[0].shape[0], GAP, 3), BACKGROUND, np.uint8)
    row = [part for panel in panels for part in (panel, gap)]
    return np.concatenate(row[:-1], axis=1)
