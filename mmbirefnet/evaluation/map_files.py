"""Predictions and masks in folders, matched by stem."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from mmbirefnet.datasets.dichotomous import refuse_circles
from mmbirefnet.datasets.preparation.find_sets import list_folder
from mmbirefnet.datasets.transforms.decode import read_map, read_mask
from mmbirefnet.imaging.formats import IMAGE_SUFFIXES

from .scoring import score_pair


class MapFiles(NamedTuple):
    """Predictions of a folder, matched to the masks of another."""

    pairs: dict[str, tuple[Path, Path]]
    """Mask and prediction of each stem, sorted."""
    missing: list[str]
    """Stems of masks without a prediction."""
    unused: list[str]
    """Stems of predictions without a mask."""


def list_images(folder: str | Path) -> dict[str, Path]:
    """Image files of a folder and its subfolders by stem (path without suffix), sorted.

    Raises:
        NotADirectoryError: If the folder does not exist.
        OSError: If a link leads to a folder that contains it.
        ValueError: If it contains no image, or two images with the same stem.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise NotADirectoryError(f'no folder {folder}')
    refuse_circles(str(folder))
    stems, _ = list_folder(str(folder))
    for names in stems.values():
        if len(names) > 1:
            raise ValueError(f'two files with one stem: {folder / names[0]} and {folder / names[1]}')
    if not stems:
        raise ValueError(f'{folder}: no image files')
    return {stem: folder / name for stem, (name,) in stems.items()}


def match_maps(mask_folder: str | Path, map_folder: str | Path) -> MapFiles:
    """Match masks and predictions by stem.

    Raises:
        NotADirectoryError, ValueError: As in :func:`list_images`; the folder of predictions may be empty or missing.
    """
    masks = list_images(mask_folder)
    map_folder = Path(map_folder)
    has_maps = map_folder.is_dir() and any(map_folder.iterdir())
    maps = list_images(map_folder) if has_maps else {}
    pairs = {stem: (masks[stem], maps[stem]) for stem in masks if stem in maps}
    return MapFiles(pairs, [s for s in masks if s not in maps], [s for s in maps if s not in masks])


def find_trimap(mask_path: str | Path, stem: str, folder: str) -> Path:
    """Find the trimap of a mask.

    Args:
        mask_path: File of the mask.
        stem: Its path below the folder of masks, without suffix.
        folder: Name of the folder of trimaps beside the folder of masks, or an absolute path.

    Raises:
        FileNotFoundError: If there is no trimap.
    """
    place = Path(mask_path).parents[stem.count('/') + 1] / folder
    for suffix in IMAGE_SUFFIXES:
        if (path := place / f'{stem}{suffix}').is_file():
            return path
    raise FileNotFoundError(f'{mask_path}: no trimap at {place / stem}.png')


def unknown_region(alpha: np.ndarray, trimap: int | str | Path) -> np.ndarray:
    """Return the unknown region of a trimap, bool (H, W).

    Args:
        alpha: Soft mask, (H, W) in [0, 1].
        trimap: A file whose values other than 0 and 255 are unknown, or a distance in pixels: pixels closer than this
            to fractional alpha, or to an edge between opaque and transparent regions, are unknown.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If mask and trimap differ in size.
    """
    if isinstance(trimap, int):
        disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * trimap + 1,) * 2)
        # Pixels outside the image count as known.
        known = [cv2.erode((alpha == value).astype(np.uint8), disk) for value in (0, 1)]
        return (known[0] | known[1]) == 0
    levels = read_map(str(trimap))
    if levels.shape != alpha.shape:
        sizes = ' and '.join('x'.join(map(str, shape[::-1])) for shape in (alpha.shape, levels.shape))
        raise ValueError(f'{trimap}: mask and trimap must have one size, got {sizes}')
    return (levels > 0) & (levels < 255)


def check_trimap(trimap: int | str | None) -> int | str | None:
    """Return ``trimap`` unchanged if it is valid.

    Raises:
        ValueError: If it is neither ``None``, nor the name of a folder, nor a number of pixels of at least 1.
    """
    if trimap is None or (isinstance(trimap, str) and trimap) or (type(trimap) is int and trimap > 0):
        return trimap
    raise ValueError(f'trimap={trimap!r}: expected the name of a folder, or pixels from 1 on')


# Levels above 128 are foreground; halfway between two levels, so that rounding does not matter.
OBJECT_ABOVE = 128.5 / 255


def read_pair(mask_path: str | Path, map_path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Read a prediction and its mask. The prediction of a cut-out is its alpha.

    A prediction of another size is resized to the mask, bilinearly in 8 bits, as in the reference evaluation.

    Returns:
        The prediction, uint8 (H, W), and the mask, float32 (H, W) in [0, 1].

    Raises:
        OSError: If a file is missing, truncated or not an image.
        ValueError: If the mask is not gray.
    """
    mask = read_mask(str(mask_path))
    score_map = read_map(str(map_path))
    if score_map.shape != mask.shape:
        score_map = cv2.resize(score_map, mask.shape[::-1])
    return score_map, mask


def score_files(
    mask_path: str | Path,
    map_path: str | Path,
    measures: Sequence[str] | None = None,
    soft_masks: bool = False,
    stretch_hce: bool = False,
    trimap: int | str | Path | None = None,
) -> dict | str:
    """Score a prediction in a file, see ``score_pair``; return the error as text if a file cannot be used.

    With ``soft_masks``, ``MAE`` and ``MSE`` compare gray levels, as in matting. ``trimap`` is a file or a distance in
    pixels, see :func:`unknown_region`.
    """
    try:
        score_map, alpha = read_pair(mask_path, map_path)
        mask = alpha > OBJECT_ABOVE
        unknown = None if trimap is None else unknown_region(alpha, trimap)
        return score_pair(score_map, mask, measures, alpha if soft_masks else None, stretch_hce, unknown)
    except (OSError, ValueError) as error:
        return str(error)
