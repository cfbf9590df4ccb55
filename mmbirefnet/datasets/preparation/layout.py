"""The forms in which sets are downloaded, and links that give them this project's form."""

from __future__ import annotations

import os
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

from mmbirefnet.datasets.preparation.find_sets import IMAGES, MASKS
from mmbirefnet.imaging.formats import IMAGE_SUFFIXES


class Layout(NamedTuple):
    """Where a download keeps the images and masks of a set.

    ``images`` and ``masks`` are folders, or patterns of files such as ``alpha/*_matte.png``, whose ``*`` is the stem.
    """

    set_path: str
    images: str
    masks: str
    stems: str = '*'


def _same_form(family: str, names: dict[str, str], images: str, masks: str) -> list[Layout]:
    return [Layout(f'{family}/{name}', f'{place}/{images}', f'{place}/{masks}') for name, place in names.items()]


LAYOUTS = [
    *_same_form(
        'DIS5K', {f'DIS-{part}': f'DIS-{part}' for part in ('TR', 'VD', 'TE1', 'TE2', 'TE3', 'TE4')}, 'im', 'gt'
    ),
    # COD10K-v3, whose other half are images without a camouflaged object
    Layout('COD/TR-COD10K', 'Train/Image', 'Train/GT_Object', 'COD10K-CAM-*'),
    Layout('COD/TE-COD10K', 'Test/Image', 'Test/GT_Object', 'COD10K-CAM-*'),
    # CAMO-V.1.0-CVIU2019, with one folder of masks
    Layout('COD/TR-CAMO', 'Images/Train', 'GT'),
    Layout('COD/TE-CAMO', 'Images/Test', 'GT'),
    # the archives that SINet-v2 and its successors share
    Layout('COD/TR-COD10K', 'TrainDataset/Imgs', 'TrainDataset/GT', 'COD10K-CAM-*'),
    Layout('COD/TR-CAMO', 'TrainDataset/Imgs', 'TrainDataset/GT', 'camourflage_*'),
    *_same_form('COD', {'TE-COD10K': 'TestDataset/COD10K', 'TE-CAMO': 'TestDataset/CAMO'}, 'Imgs', 'GT'),
    *_same_form('COD', {'CHAMELEON': 'CHAMELEON', 'NC4K': 'NC4K'}, 'Imgs', 'GT'),
    *_same_form('HRSOD', {'TR-UHRSD': 'UHRSD_TR_2K', 'TE-UHRSD': 'UHRSD_TE_2K'}, 'image', 'mask'),
    Layout('HRSOD/TR-DUTS', 'DUTS-TR-Image', 'DUTS-TR-Mask'),
    Layout('HRSOD/TE-DUTS', 'DUTS-TE-Image', 'DUTS-TE-Mask'),
    Layout('HRSOD/TR-HRSOD', 'HRSOD_train', 'HRSOD_train_mask'),
    Layout('HRSOD/TE-HRSOD', 'HRSOD_test', 'HRSOD_test_mask'),
    Layout('HRSOD/DUT-OMRON', 'DUT-OMRON-image', 'pixelwiseGT-new-PNG'),
    Layout('Matting/TR-P3M-10k', 'train/blurred_image', 'train/mask'),
    Layout('Matting/TE-P3M-500-P', 'P3M-500-P/blurred_image', 'P3M-500-P/mask'),
    Layout('Matting/TE-P3M-500-NP', 'P3M-500-NP/original_image', 'P3M-500-NP/mask'),
    Layout('Matting/TR-AM-2k', 'train/original', 'train/mask'),
    Layout('Matting/TE-AM-2k', 'validation/original', 'validation/mask'),
    Layout('Matting/AIM-500', 'AIM-500/original', 'AIM-500/mask'),
    Layout('Matting/PPM-100', 'PPM-100/image', 'PPM-100/matte'),
]


class Plan(NamedTuple):
    """Links of one set: name of the link, relative to the set, to the file that it names."""

    set_path: str
    links: dict[str, Path]
    images_without_mask: list[Path]
    masks_without_image: list[Path]


def find_layouts(source: Path, depth: int = 3) -> Iterator[tuple[Layout, Path]]:
    """Known layouts in a folder or up to ``depth`` levels below it, each with the folder that it begins in."""
    folders = []
    for path, children, _ in os.walk(source, followlinks=True):
        folders.append(Path(path))
        if len(folders[-1].relative_to(source).parts) == depth:
            children.clear()
    for layout in LAYOUTS:
        for folder in folders:
            if (folder / layout.images).is_dir() and (folder / layout.masks).is_dir():
                yield layout, folder


def plan_links(layout: Layout, folder: Path) -> Plan:
    """Pair the files of a download by stem.

    Raises:
        ValueError: No image and mask go together, or two files have one stem.
    """
    images, masks = (_list(folder, pattern, layout.stems) for pattern in (layout.images, layout.masks))
    links = {}
    for stem in sorted(images.keys() & masks.keys()):
        for kind, path in ((IMAGES, images[stem]), (MASKS, masks[stem])):
            links[f'{kind}/{stem}{path.suffix}'] = path
    if not links:
        raise ValueError(
            f'{folder}: no image of {layout.images} ({len(images)}) and mask of {layout.masks} ({len(masks)}) share a '
            f'stem like {layout.stems}; <folder>/<text>*<text> says what around the stem belongs to the file name only'
        )
    rest = (
        [files[stem] for stem in sorted(files.keys() - other.keys())]
        for files, other in ((images, masks), (masks, images))
    )
    return Plan(layout.set_path, links, *rest)


def _list(folder: Path, pattern: str, stems: str) -> dict[str, Path]:
    """Files by stem: what ``*`` in the last part of the pattern stands for, without the suffix of an image."""
    place, _, name = pattern.rpartition('/') if '*' in pattern else (pattern, '', '*')
    before, _, after = name.partition('*')
    found = {}
    for path in sorted((folder / place).iterdir()):
        suffix = path.suffix if path.suffix.lower() in IMAGE_SUFFIXES else None
        if suffix is None or not (path.name.startswith(before) and path.name.endswith(after)):
            continue
        stem = path.name[len(before) : len(path.name) - len(after or suffix)]
        stem = stem.removesuffix(suffix) if after else stem
        if fnmatch(stem, stems):
            if stem in found:
                raise ValueError(f'two files of one stem: {found[stem]} and {path}')
            found[stem] = path
    return found


def make_links(plan: Plan, data_root: Path) -> None:
    """Lay out a set as links; those that are there already may stay.

    Raises:
        FileExistsError: Something else is in the set's folder; nothing is changed then.
    """
    folder = data_root / plan.set_path
    there = {
        str(path.relative_to(folder)): path for path in folder.rglob('*') if not path.is_dir() or path.is_symlink()
    }
    for name, path in there.items():
        target = plan.links.get(name)
        if target is None or not path.is_symlink() or os.readlink(path) != os.path.abspath(target):
            raise FileExistsError(f'{path}: in the way, remove it or choose another data root')
    for name, target in plan.links.items():
        if name not in there:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).symlink_to(os.path.abspath(target))
