"""Find sets below a data root, and match their files."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import NamedTuple

from mmengine import fileio

from mmbirefnet.datasets.benchmarks import CODDataset, DIS5KDataset, HRSODDataset, MattingDataset
from mmbirefnet.imaging.formats import IMAGE_SUFFIXES

FAMILIES = {family.FAMILY: family.SET_SIZES for family in (DIS5KDataset, CODDataset, HRSODDataset, MattingDataset)}
PUBLISHED_SIZES = {name: size for sizes in FAMILIES.values() for name, size in sizes.items()}
"""Published number of images of each known set."""
IMAGES, MASKS = 'im', 'gt'
IMAGE_FOLDERS = (IMAGES, 'images', 'image', 'imgs', 'img')
MASK_FOLDERS = (MASKS, 'masks', 'mask', 'alphas', 'alpha', 'mattes', 'matte', 'labels')
"""Folder names of a set, in any case; names other than the first are accepted only if both folders exist."""
TRAIN_FOLDERS, VAL_FOLDERS = ('train', 'training'), ('val', 'valid', 'validation')


def find_sets(root: str, names: Sequence[str] | None = None) -> dict[str, str | None]:
    """Sets below a data root: folders that have ``im/`` or ``gt/``, or a pair such as ``images/`` and ``masks/``.

    They are searched for in the data root and two levels below it.

    Args:
        root: Data root, or a set itself.
        names: Use only these: names of sets, paths of sets below ``root``, or names of families for all their sets.

    Returns:
        Path of each set relative to ``root`` (``''`` for the root itself) by name, ``None`` if it is missing. If
        several sets have the same name, their paths are used as names.

    Raises:
        FileNotFoundError: If ``root`` contains no set.
    """
    paths = _search(root, '', depth=2)
    if not paths:
        raise FileNotFoundError(
            f'{root}: no set, that is, no folder with {IMAGES}/ or {MASKS}/, in it or two levels below'
        )
    by_name = defaultdict(list)
    for path in paths:
        by_name[_last(path or root)].append(path)
    found = {name if len(same) == 1 else path: path for name, same in by_name.items() for path in same}
    if names is None:
        return found
    wanted = [name for each in names for name in FAMILIES.get(each, [each])]
    return {name: found.get(name, name if name in paths else None) for name in wanted}


def _search(root: str, path: str, depth: int) -> list[str]:
    folder = fileio.join_path(root, path) if path else root
    children = _children(folder)
    if pair_of(children) is not None:
        return [path]
    if not depth:
        return []
    return [each for child in children for each in _search(root, f'{path}/{child}' if path else child, depth - 1)]


def _last(path: str) -> str:
    return path.rstrip('/').rpartition('/')[2]


def pair_of(children: Sequence[str]) -> tuple[str, str] | None:
    """Choose the folders of images and masks among those of a folder; ``None`` if it is not a set."""
    if IMAGES in children or MASKS in children:
        return IMAGES, MASKS
    by_name = {name.lower(): name for name in children}
    found = [
        next((by_name[name] for name in names if name in by_name), None) for names in (IMAGE_FOLDERS, MASK_FOLDERS)
    ]
    return None if None in found else tuple(found)


def common_ending(image_stems: Collection[str], mask_stems: Collection[str]) -> str:
    """Ending of all mask stems after the stem of their image, such as ``_mask``; may be empty."""
    if not image_stems or not mask_stems or set(mask_stems) & set(image_stems):
        return ''
    first = min(mask_stems)
    endings = [first[len(stem) :] for stem in image_stems if first.startswith(stem)]
    return next((end for end in sorted(endings, key=len) if all(stem.endswith(end) for stem in mask_stems)), '')


class DataFolder(NamedTuple):
    """A set of images and masks, or two sets for training and validation."""

    root: str
    """Folder of the training set."""
    val_root: str | None
    """Folder of the validation set, if there is one."""
    prefix: dict[str, str]
    """Names of the folders of images and masks, as ``data_prefix`` of a data set."""
    mask_ending: str
    """Ending of mask stems after the stem of their image."""
    stems: list[str]
    """Stems of the training images."""

    @property
    def mask_suffixes(self) -> list[str]:
        """Endings of mask names, as ``seg_map_suffix`` of a data set."""
        return [self.mask_ending + suffix for suffix in IMAGE_SUFFIXES]


def find_data_folder(data: str | os.PathLike, val: str | os.PathLike | None = None) -> DataFolder:
    """Find images and masks in a user's folder.

    Args:
        data: A folder with ``im/`` and ``gt/``, ``images/`` and ``masks/``, or similar, or with ``train/`` and ``val/``
            that contain these.
        val: Another such folder for validation.

    Raises:
        FileNotFoundError: If ``data`` has none of these forms.
        ValueError: If the folders for training and validation have different names, or there are no images.
    """
    data = os.fspath(data)
    if not fileio.isdir(data):
        raise FileNotFoundError(f'{data}: no such folder')
    root, val_root = data, None if val is None else os.fspath(val)
    children = _children(data)
    if pair_of(children) is None:
        by_name = {name.lower(): name for name in children}
        train, validation = (
            next((by_name[name] for name in names if name in by_name), None) for names in (TRAIN_FOLDERS, VAL_FOLDERS)
        )
        if train is not None:
            root = fileio.join_path(data, train)
            val_root = val_root or (validation and fileio.join_path(data, validation))
    pair = pair_of(_children(root))
    if pair is None:
        found = ', '.join(f'{name}/' for name in _children(root)) or 'no folder'
        raise FileNotFoundError(
            f'{root}: expected a folder of images ({", ".join(IMAGE_FOLDERS)}) and one of masks '
            f'({", ".join(MASK_FOLDERS)}), or train/ and val/ with these in them; found {found}'
        )
    if val_root is not None and (not fileio.isdir(val_root) or pair_of(_children(val_root)) != pair):
        raise ValueError(f'{val_root}: expected {pair[0]}/ and {pair[1]}/ to validate on, as in {root}')
    images, masks = (
        list_folder(fileio.join_path(root, name))[0] if fileio.isdir(fileio.join_path(root, name)) else {}
        for name in pair
    )
    if not images:
        raise ValueError(f'{root}/{pair[0]}: no image')
    ending = common_ending(images, masks)
    return DataFolder(root, val_root, dict(img_path=pair[0], seg_map_path=pair[1]), ending, sorted(images))


def _children(folder: str) -> list[str]:
    return sorted(fileio.list_dir_or_file(folder, list_file=False)) if fileio.isdir(folder) else []


def list_folder(folder: str) -> tuple[dict[str, list[str]], list[str]]:
    """List the files of a folder of images or masks, including subfolders.

    Returns:
        Names of the files by stem (path without suffix), sorted by stem; and names with other suffixes.
    """
    stems, others = defaultdict(list), []
    for name in sorted(fileio.list_dir_or_file(folder, list_dir=False, recursive=True)):
        stem, dot, suffix = name.rpartition('.')
        if dot + suffix.lower() in IMAGE_SUFFIXES:
            stems[stem].append(name)
        else:
            others.append(name)
    return dict(sorted(stems.items())), others
