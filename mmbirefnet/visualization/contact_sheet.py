"""Samples as panels of image, mask, prediction and error side by side, and many of them on one sheet."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import cv2
import numpy as np

GAP = 4  # pixels between panels
BACKGROUND = 255
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_CAPTION_HEIGHT = 22
_INK = (40, 40, 40)


class SheetRow(NamedTuple):
    """One row of a contact sheet."""

    image: np.ndarray | None
    """RGB uint8 (H, W, 3); left out if None."""
    mask: np.ndarray
    """uint8 (H, W)."""
    score_map: np.ndarray
    """uint8 (H, W)."""
    caption: str = ''
    """Written above the row; ASCII."""
    before: np.ndarray | None = None
    """An earlier map, drawn before ``score_map``; uint8 (H, W)."""


def draw_contact_sheet(rows: Iterable[SheetRow], width: int = 320, with_error: bool = False) -> np.ndarray:
    """Draw samples below each other.

    Args:
        rows: samples, each with its own proportions.
        width: of a panel in pixels.
        with_error: add a panel where too much is red and too little blue.

    Returns:
        RGB uint8 (H, W, 3).

    Raises:
        ValueError: if there are no rows.
    """
    strips = [_draw_row(row, width, with_error) for row in rows]
    if not strips:
        raise ValueError('a contact sheet needs at least one row')
    widest = max(strip.shape[1] for strip in strips)
    parts = []
    for strip in strips:
        pad = ((0, GAP), (0, widest - strip.shape[1]), (0, 0))
        parts.append(np.pad(strip, pad, constant_values=BACKGROUND))
    return np.concatenate(parts)


def _draw_row(row: SheetRow, width: int, with_error: bool) -> np.ndarray:
    height = max(1, round(row.mask.shape[0] * width / row.mask.shape[1]))
    mask, score_map = fit(row.mask, (height, width)), fit(row.score_map, (height, width))
    panels = [] if row.image is None else [fit(row.image, (height, width))]
    panels += [mask, score_map] if row.before is None else [mask, fit(row.before, (height, width)), score_map]
    if with_error:
        panels.append(error_panel(score_map, mask))
    strip = side_by_side(panels)
    if not row.caption:
        return strip
    caption = np.full((_CAPTION_HEIGHT, strip.shape[1], 3), BACKGROUND, np.uint8)
    text = row.caption.encode('ascii', 'replace').decode()
    cv2.putText(caption, text, (2, _CAPTION_HEIGHT - 7), _FONT, 0.45, _INK, 1, cv2.LINE_AA)
    return np.concatenate([caption, strip])


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
    """RGB uint8: panels of one size, gray (H, W) or RGB (H, W, 3), from left to right."""
    panels = [cv2.cvtColor(p, cv2.COLOR_GRAY2RGB) if p.ndim == 2 else p for p in panels]
    gap = np.full((panels[0].shape[0], GAP, 3), BACKGROUND, np.uint8)
    row = [part for panel in panels for part in (panel, gap)]
    return np.concatenate(row[:-1], axis=1)
