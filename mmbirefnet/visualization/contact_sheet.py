"""Many samples in one picture: a row each of image, mask, map and, if wanted, error."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import cv2
import numpy as np

from .panels import BACKGROUND, GAP, error_panel, fit, side_by_side

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
    panels += [mask, score_map]
    if with_error:
        panels.append(error_panel(score_map, mask))
    strip = side_by_side(panels)
    if not row.caption:
        return strip
    caption = np.full((_CAPTION_HEIGHT, strip.shape[1], 3), BACKGROUND, np.uint8)
    text = row.caption.encode('ascii', 'replace').decode()
    cv2.putText(caption, text, (2, _CAPTION_HEIGHT - 7), _FONT, 0.45, _INK, 1, cv2.LINE_AA)
    return np.concatenate([caption, strip])
