"""Score maps and masks in folders, matched by stem."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from mmbirefnet.datasets.dichotomous import refuse_circles
from mmbirefnet.datasets.preparation.find_sets import list_folder
from mmbirefnet.datasets.transforms.decode import read_map, read_mask

from .scoring import score_pair


class MapFiles(NamedTuple):
    """The maps of a folder beside the masks of another."""

    pairs: dict[str, tuple[Path, Path]]
    """Mask and map of each stem, sorted."""
    missing: list[str]
    """Stems of masks without a map."""
    unused: list[str]
    """Stems of maps without a mask."""


def list_images(folder: str | Path) -> dict[str, Path]:
    """Image files of a folder and of those in it by their stem (path without suffix), sorted.

    Raises:
        NotADirectoryError: if there is no such folder.
        OSError: if a link leads to a folder that it is in.
        ValueError: if it holds no image, or two of one stem.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise NotADirectoryError(f'no folder {folder}')
    refuse_circles(str(folder))
    stems, _ = list_folder(str(folder))
    for names in stems.values():
        if len(names) > 1:
            raise ValueError(f'two files of one stem: {folder / names[0]} and {folder / names[1]}')
    if not stems:
        raise ValueError(f'{folder}: no image files')
    return {stem: folder / name for stem, (name,) in stems.items()}


def match_maps(mask_folder: str | Path, map_folder: str | Path) -> MapFiles:
    """Match masks and maps by stem.

    Raises:
        NotADirectoryError, ValueError: as ``list_images``; a folder of maps may be empty or absent.
    """
    masks = list_images(mask_folder)
    map_folder = Path(map_folder)
    has_maps = map_folder.is_dir() and any(map_folder.iterdir())
    maps = list_images(map_folder) if has_maps else {}
    pairs = {stem: (masks[stem], maps[stem]) for stem in masks if stem in maps}
    return MapFiles(pairs, [s for s in masks if s not in maps], [s for s in maps if s not in masks])


OBJECT_ABOVE = 128.5 / 255  # levels above 128 are the object; between levels, so that rounding is harmless


def read_pair(mask_path: str | Path, map_path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """A map and its mask. The map of a cut-out is its alpha.

    A map of another size is resized to the mask's, bilinearly in 8 bits, as the reference evaluation does.

    Returns:
        The map, uint8 (H, W), and the mask, float32 (H, W) in [0, 1].

    Raises:
        OSError: if a file is missing, truncated or not an image.
        ValueError: if the mask is not grey.
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
) -> dict | str:
    """Scores of a map in a file (see ``score_pair``), or what is wrong with the files.

    With ``soft_masks``, ``MAE`` and ``MSE`` compare the grey levels, as in matting.
    """
    try:
        score_map, alpha = read_pair(mask_path, map_path)
        mask = alpha > OBJECT_ABOVE
        return score_pair(score_map, mask, measures, alpha if soft_masks else None, stretch_hce)
    except (OSError, ValueError) as error:
        return str(error)
