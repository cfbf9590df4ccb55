"""Layouts of downloaded sets, links that convert them to our layout, and copies at the training size."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from mmengine import fileio

from mmbirefnet.datasets.dichotomous import DichotomousDataset
from mmbirefnet.datasets.preparation.find_sets import IMAGES, MASKS, find_sets
from mmbirefnet.datasets.transforms import LoadImage, LoadMask, Resize
from mmbirefnet.imaging.formats import IMAGE_SUFFIXES
from mmbirefnet.utils.process_guard import prepare_worker


class Layout(NamedTuple):
    """Locations of the images and masks of a set in a download.

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
    # COD10K-v3; its other images have no camouflaged object
    Layout('COD/TR-COD10K', 'Train/Image', 'Train/GT_Object', 'COD10K-CAM-*'),
    Layout('COD/TE-COD10K', 'Test/Image', 'Test/GT_Object', 'COD10K-CAM-*'),
    # CAMO-V.1.0-CVIU2019; both sets share one folder of masks
    Layout('COD/TR-CAMO', 'Images/Train', 'GT'),
    Layout('COD/TE-CAMO', 'Images/Test', 'GT'),
    # archives of SINet-v2 and its successors
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
    """Links of one set: target by name of the link, relative to the set."""

    set_path: str
    links: dict[str, Path]
    images_without_mask: list[Path]
    masks_without_image: list[Path]


def find_layouts(source: Path, depth: int = 3) -> Iterator[tuple[Layout, Path]]:
    """Find known layouts in a folder and up to ``depth`` levels below it, each with its root folder."""
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
    """Match the files of a download by stem.

    Raises:
        ValueError: If no image matches a mask, or two files have the same stem.
    """
    images, masks = (_list(folder, pattern, layout.stems) for pattern in (layout.images, layout.masks))
    links = {}
    for stem in sorted(images.keys() & masks.keys()):
        for kind, path in ((IMAGES, images[stem]), (MASKS, masks[stem])):
            links[f'{kind}/{stem}{path.suffix}'] = path
    if not links:
        raise ValueError(
            f'{folder}: no image of {layout.images} ({len(images)}) and mask of {layout.masks} ({len(masks)}) share a '
            f'stem like {layout.stems}; in <folder>/<text>*<text>, the * is the stem'
        )
    rest = (
        [files[stem] for stem in sorted(files.keys() - other.keys())]
        for files, other in ((images, masks), (masks, images))
    )
    return Plan(layout.set_path, links, *rest)


def _list(folder: Path, pattern: str, stems: str) -> dict[str, Path]:
    """Files by stem, which is the text that ``*`` in the last part of the pattern matches, without suffix."""
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
                raise ValueError(f'two files with one stem: {found[stem]} and {path}')
            found[stem] = path
    return found


def make_links(plan: Plan, data_root: Path) -> None:
    """Create the links of a set; existing equal links are kept.

    Raises:
        FileExistsError: If the folder of the set contains anything else; nothing is changed then.
    """
    folder = data_root / plan.set_path
    there = {
        str(path.relative_to(folder)): path for path in folder.rglob('*') if not path.is_dir() or path.is_symlink()
    }
    for name, path in there.items():
        target = plan.links.get(name)
        if target is None or not path.is_symlink() or os.readlink(path) != os.path.abspath(target):
            raise FileExistsError(f'{path}: already exists. Fix: remove it, or choose another data root')
    for name, target in plan.links.items():
        if name not in there:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).symlink_to(os.path.abspath(target))


def pack(
    root: str,
    out: str,
    size: tuple[int, int],
    names: Sequence[str] | None = None,
    jpeg_quality: int | None = None,
    processes: int | None = None,
) -> int:
    """Copy data sets into a new data root, resized as the training pipeline resizes them.

    Use it for training only: scores are computed at the original size of the masks.

    Args:
        root: Data root or set; see :func:`~mmbirefnet.datasets.preparation.find_sets.find_sets`, also for ``names``.
        out: Folder to create; sets keep their paths relative to ``root``.
        size: (width, height) in pixels. Files are PNG with exactly the pixels of the pipeline's resize, except that
            16-bit masks are rounded to 16 bits.
        names: Sets or families to copy; all by default.
        jpeg_quality: Write images as JPEG of this quality, 1 to 100: smaller, with changed pixels. Masks stay PNG.
        processes: Number of processes; one per core by default.

    Returns:
        Number of pairs.

    Raises:
        FileExistsError: If ``out`` exists.
        FileNotFoundError, ValueError, OSError: If a set or file is missing or damaged. ``check_dataset.py`` lists all.
    """
    if os.path.exists(out):
        raise FileExistsError(f'{out}: already exists. Fix: remove it or choose another folder')
    sets = find_sets(root, names)
    missing = [name for name, path in sets.items() if path is None]
    if missing:
        raise FileNotFoundError(f'no set {", ".join(missing)} below {root}')
    pairs = []
    for path in sets.values():
        data = DichotomousDataset(fileio.join_path(root, path) if path else root)
        items = (data.get_data_info(index) for index in range(len(data)))
        pairs += [(item['img_path'], item['seg_map_path']) for item in items]
    unfinished = Path(f'{out.rstrip("/")}.unfinished')
    shutil.rmtree(unfinished, ignore_errors=True)
    copy = partial(_copy, root=root, out=unfinished, size=size, jpeg_quality=jpeg_quality)
    with ProcessPoolExecutor(processes or os.cpu_count(), initializer=prepare_worker) as pool:
        for _ in pool.map(copy, pairs, chunksize=4):
            pass
    unfinished.rename(out)  # rename the folder once it is complete
    return len(pairs)


def _copy(pair: tuple[str, str], root: str, out: Path, size: tuple[int, int], jpeg_quality: int | None) -> None:
    """Write one image and its mask, resized, at the same relative paths below ``out``."""
    image, mask = pair
    results = dict(img_path=image, seg_map_path=mask, seg_fields=[])
    for transform in (LoadImage(), LoadMask(), Resize(scale=size)):
        results = transform(results)
    pixels = results['gt_seg_map']
    if pixels.dtype == np.float32:
        pixels = np.round(pixels * 65535).astype(np.uint16)
    kind, options = ('.png', []) if jpeg_quality is None else ('.jpg', [cv2.IMWRITE_JPEG_QUALITY, jpeg_quality])
    for path, suffix, array, chosen in ((image, kind, results['img'], options), (mask, '.png', pixels, [])):
        target = (out / path.removeprefix(root.rstrip('/') + '/')).with_suffix(suffix)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(cv2.imencode(suffix, array, chosen)[1].tobytes())
