"""Thumbnails of the problems of data sets."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from itertools import zip_longest
from pathlib import Path

import cv2
import numpy as np
from mmengine import fileio
from PIL import Image, ImageOps

from mmbirefnet.datasets.preparation.check import KINDS, Pair, Problem, SetReport

from .contact_sheet import SheetRow, draw_contact_sheet


def draw_problems(reports: Mapping[str, SetReport], path: str | os.PathLike, most: int = 40, width: int = 200) -> int:
    """Draw thumbnails of the problems: the image or mask that has it and, of a pair, the other one.

    Args:
        reports: Of :func:`check_sets`.
        path: Picture to write.
        most: Number of problems at most; of more, some of each kind.
        width: Of a thumbnail, in pixels.

    Returns:
        Number of problems that are drawn. Files that cannot be read are drawn as gray.
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
    for problem, file in sorted(chosen, key=lambda item: list(KINDS).index(item[0].kind)):
        panels = [_thumbnail(each, width) for each in (file.image, file.mask)]
        rows.append(SheetRow(panels[0], panels[1][..., 0], _outlined(*panels), f'{problem.kind}: {file.stem}'))
    if rows:
        fileio.put(cv2.imencode(Path(path).suffix, draw_contact_sheet(rows, width)[..., ::-1])[1].tobytes(), str(path))
    return len(rows)


def _thumbnail(path: str | None, width: int) -> np.ndarray:
    """RGB uint8 (H, W, 3); gray where there is none."""
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
