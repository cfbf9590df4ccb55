"""Sheets of samples (image, mask, prediction and error side by side), and of the problems of data sets."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from mmengine import fileio
from PIL import Image, ImageOps

from mmbirefnet.datasets.preparation.check import PROBLEMS, Pair, Problem, SetReport

GAP = 4  # pixels between panels
BACKGROUND = 255
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_CAPTION_HEIGHT = 22
_INK = (40, 40, 40)


class SheetRow(NamedTuple):
    """One row of a contact sheet."""

    image: np.ndarray | None
    """RGB uint8 (H, W, 3); omitted if ``None``."""
    mask: np.ndarray
    """uint8 (H, W)."""
    score_map: np.ndarray
    """uint8 (H, W)."""
    caption: str = ''
    """Written above the row; ASCII."""
    before: np.ndarray | None = None
    """An earlier prediction, left of ``score_map``; uint8 (H, W)."""


def draw_contact_sheet(rows: Iterable[SheetRow], width: int = 320, with_error: bool = False) -> np.ndarray:
    """Draw samples, one per row.

    Args:
        rows: Samples, which may have different aspect ratios.
        width: Width of a panel in pixels.
        with_error: Add a panel of errors: false positives in red, false negatives in blue.

    Returns:
        RGB uint8 (H, W, 3).

    Raises:
        ValueError: If there are no rows.
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
    """Resize to ``size`` (height, width): area averages to shrink, bilinear to enlarge."""
    if image.shape[:2] == size:
        return image
    shrinks = image.shape[0] >= size[0] and image.shape[1] >= size[1]
    return cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def bounded_size(shape: Sequence[int], longest: int) -> tuple[int, int]:
    """(height, width) with the aspect ratio of ``shape``, at most ``longest`` and at most ``shape``."""
    height, width = shape[:2]
    scale = min(1.0, longest / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def error_panel(score_map: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """RGB uint8 (H, W, 3): false positives in red and false negatives in blue, by their size, on the dimmed mask.

    Args:
        score_map: uint8 (H, W).
        mask: uint8 (H, W).
    """
    difference = score_map.astype(np.int16) - mask
    base = (mask // 4).astype(np.int16)
    channels = [base + np.maximum(difference, 0), base, base + np.maximum(-difference, 0)]
    return np.stack(channels, axis=-1).clip(0, 255).astype(np.uint8)


def side_by_side(panels: Sequence[np.ndarray]) -> np.ndarray:
    """RGB uint8: panels of the same size, gray (H, W) or RGB (H, W, 3), side by side."""
    panels = [cv2.cvtColor(p, cv2.COLOR_GRAY2RGB) if p.ndim == 2 else p for p in panels]
    gap = np.full((panels[0].shape[0], GAP, 3), BACKGROUND, np.uint8)
    row = [part for panel in panels for part in (panel, gap)]
    return np.concatenate(row[:-1], axis=1)


def draw_problems(reports: Mapping[str, SetReport], path: str | os.PathLike, most: int = 40, width: int = 200) -> int:
    """Draw thumbnails of the problems: the image or mask with the problem, and its partner if there is one.

    Args:
        reports: Result of :func:`check_sets`.
        path: Image file to write.
        most: Maximum number of problems; if there are more, some of each kind are drawn.
        width: Width of a thumbnail in pixels.

    Returns:
        Number of problems that were drawn. Unreadable files are gray.
    """
    by_kind: dict[str, list[tuple[Problem, Pair]]] = {}
    for report in reports.values():
        for problem in report.problems:
            file = report.pairs.get(problem.path)
            if file is not None:
                by_kind.setdefault(problem.kind, []).append((problem, file))
    rounds = zip_longest(*by_kind.values())
    chosen = [item for items in rounds for item in items if item is not None][:most]
    rows = []
    for problem, file in sorted(chosen, key=lambda item: list(PROBLEMS).index(item[0].kind)):
        panels = [_thumbnail(each, width) for each in (file.image, file.mask)]
        rows.append(SheetRow(panels[0], panels[1][..., 0], _outlined(*panels), f'{problem.kind}: {file.stem}'))
    if rows:
        fileio.put(cv2.imencode(Path(path).suffix, draw_contact_sheet(rows, width)[..., ::-1])[1].tobytes(), str(path))
    return len(rows)


def _thumbnail(path: str | None, width: int) -> np.ndarray:
    """RGB uint8 (H, W, 3); gray if the file cannot be read."""
    try:
        with Image.open(io.BytesIO(fileio.get(path))) as image:
            image.draft('RGB', (2 * width, 2 * width))
            image = ImageOps.exif_transpose(image.convert('RGB'))
            image.thumbnail((width, 4 * width))
            return np.asarray(image)
    except (OSError, TypeError, ValueError):  # missing, not a file, or not an image
        return np.full((width * 3 // 4, width, 3), 128, np.uint8)


def _outlined(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The image, darkened outside the mask."""
    mask = cv2.resize(mask[..., :1], image.shape[1::-1])
    return cv2.cvtColor(np.rint(image * (0.25 + mask[..., None] / 340)).astype(np.uint8), cv2.COLOR_RGB2GRAY)
