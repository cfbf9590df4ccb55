"""Checks of whole sets: all problems of all files in one report."""

from __future__ import annotations

import hashlib
import io
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple

import cv2
import numpy as np
from mmengine import fileio
from PIL import Image

from mmbirefnet.datasets.folder import held_out_stems
from mmbirefnet.datasets.preparation.find_sets import (
    IMAGES,
    MASKS,
    PUBLISHED_SIZES,
    common_ending,
    find_sets,
    list_folder,
    pair_of,
)
from mmbirefnet.datasets.transforms.decode import mask_to_float, read_image, read_mask_levels
from mmbirefnet.utils.process_guard import prepare_worker

PROBLEMS = {
    'missing-set': 'a set, or its folder of images or masks, is missing',
    'count': 'more or fewer images than published',
    'no-mask': 'an image without a mask',
    'no-image': 'a mask without an image',
    'same-stem': 'two files with the same stem',
    'other-file': 'a file whose suffix is not that of an image',
    'unreadable': 'an image or mask that is empty, truncated, damaged, or not an image',
    'not-a-mask': 'a mask with colors, with color and alpha that both vary, with class ids, or not of 8 or 16 bits',
    'size': 'a mask whose size differs from that of its image',
    'unturned': 'a mask that ignores the EXIF orientation of its image, so it is rotated or mirrored',
    'inverted': 'a mask that is white around a black object',
    'empty-mask': 'a mask without foreground',
    'duplicate': 'an image with the same pixels as another one, in any of the sets',
    'near-duplicate': 'an image that looks like one of another set; in one set, a held-out image like a training image',
}
"""Kinds of :class:`Problem`."""
RUINOUS = ('missing-set', 'no-mask', 'no-image', 'same-stem', 'unreadable', 'not-a-mask', 'size', 'unturned')
"""Kinds of which a single problem stops a training or makes it useless."""
_HASH_BITS = 16  # rows of the perceptual hash, and gradients per row
_NEAR = 10  # of 256 bits; unrelated images differ in about half of them
_EDGE_RATIO = 1.5  # factor by which a rotated mask must fit the edges of its image better
_ORIENTATION = 0x0112  # EXIF tag
_TURNS = {
    2: np.fliplr,
    3: lambda pixels: np.rot90(pixels, 2),
    4: np.flipud,
    5: np.transpose,
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: np.rot90(np.transpose(pixels), 2),
    8: np.rot90,
}


class Problem(NamedTuple):
    """A problem of a file, or of a set."""

    kind: str
    path: str
    detail: str


class Pair(NamedTuple):
    """Paths of an image, of its mask, or of both."""

    set_name: str
    image: str | None
    mask: str | None
    stem: str


@dataclass
class SetReport:
    """Results of a set."""

    images: int = 0
    masks: int = 0
    published: int | None = None
    problems: list[Problem] = field(default_factory=list)
    pairs: dict[str, Pair] = field(default_factory=dict)
    """Image and mask, by the path of either."""

    def kinds(self) -> Counter:
        """Number of problems of each kind."""
        return Counter(problem.kind for problem in self.problems)


class _Found(NamedTuple):
    """Results of a pair."""

    problems: list[Problem]
    digest: bytes | None
    """Hash of the pixels of the image."""
    looks: np.ndarray | None
    """Perceptual hash of the image, uint8 (32,)."""


def ruinous(reports: Mapping[str, SetReport]) -> list[Problem]:
    """Problems that ruin a training: those of :data:`RUINOUS`, and inverted masks if half of all masks are inverted."""
    problems = [problem for report in reports.values() for problem in report.problems]
    inverted = [problem for problem in problems if problem.kind == 'inverted']
    found = [problem for problem in problems if problem.kind in RUINOUS]
    return found + inverted * (2 * len(inverted) >= max(sum(report.masks for report in reports.values()), 1))


def check_sets(
    root: str,
    names: Sequence[str] | None = None,
    processes: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    further: Sequence[str] = (),
    held_out: float = 0.1,
) -> dict[str, SetReport]:
    """Check sets file by file, in several processes.

    Args:
        root: Data root or set; see :func:`~mmbirefnet.datasets.preparation.find_sets.find_sets`, also for ``names``.
        names: Sets or families that must exist; by default all that exist.
        processes: Number of processes; one per core by default.
        progress: Called with the number of files or pairs that were checked, and the number of all.
        further: Further sets to check together with those of ``root``.
        held_out: Share of the images that :class:`~mmbirefnet.datasets.FolderDataset` holds out if there is one set.

    Returns:
        Report by name of the set. Duplicates are reported for the second of two equal images.

    Raises:
        FileNotFoundError: If ``root`` contains no set.
    """
    reports, files = {}, []
    places = {name: path and fileio.join_path(root, path) for name, path in find_sets(root, names).items()}
    for name, path in [*places.items(), *((folder, folder) for folder in further)]:
        reports[name] = report = SetReport(published=PUBLISHED_SIZES.get(name.rpartition('/')[2]))
        if path is None:
            report.problems.append(Problem('missing-set', name, f'no such folder below {root}'))
        else:
            pairs = _match(name, path or root, report)
            report.pairs = {each: pair for pair in pairs for each in (pair.image, pair.mask) if each}
            files += pairs
    first_of, looks = {}, {}
    with ProcessPoolExecutor(processes or os.cpu_count(), initializer=prepare_worker) as pool:
        chunk = max(1, min(16, len(files) // (4 * (processes or os.cpu_count()))))
        for index, (file, found) in enumerate(zip(files, pool.map(_check, files, chunksize=chunk))):
            reports[file.set_name].problems += found.problems
            digest = found.digest
            if found.looks is not None:
                looks[file] = found.looks
            if digest is not None and (first := first_of.setdefault(digest, file.image)) != file.image:
                problem = Problem('duplicate', file.image, f'the same pixels as {first}')
                reports[file.set_name].problems.append(problem)
            if progress:
                progress(index + 1, len(files))
    if len(reports) == 1 and len(looks) > 1:
        held_out = held_out_stems([file.stem for file in looks], held_out)
        groups = {file: f'{"held-out" if file.stem in held_out else "training"} images' for file in looks}
    else:
        groups = {file: file.set_name for file in looks}
    same = {problem.path for report in reports.values() for problem in report.problems if problem.kind == 'duplicate'}
    for file, other, bits in _near_duplicates(looks, groups):
        if file.image not in same:
            detail = f'{bits} of 256 bits of its perceptual hash differ from {other.image} ({groups[other]})'
            reports[file.set_name].problems.append(Problem('near-duplicate', file.image, detail))
    return reports


def _near_duplicates(looks: Mapping[Pair, np.ndarray], groups: Mapping[Pair, str]) -> Iterator[tuple[Pair, Pair, int]]:
    """Images that look like an earlier one of another group, each with that one and the number of different bits."""
    files = list(looks)
    if not files:
        return
    hashes = np.stack([looks[file] for file in files])
    for matches in cv2.BFMatcher(cv2.NORM_HAMMING).radiusMatch(hashes, hashes, _NEAR):
        for match in matches:
            file, other = files[match.queryIdx], files[match.trainIdx]
            if match.trainIdx < match.queryIdx and groups[file] != groups[other]:
                yield file, other, int(match.distance)
                break


def _match(set_name: str, folder: str, report: SetReport) -> list[Pair]:
    """Match the files of a set by stem; others are added to the report."""
    found = {}
    names = pair_of([*fileio.list_dir_or_file(folder, list_file=False)] if fileio.isdir(folder) else [])
    image_folder, mask_folder = names or (IMAGES, MASKS)
    for kind in (image_folder, mask_folder):
        path = fileio.join_path(folder, kind)
        stems, others = list_folder(path) if fileio.isdir(path) else ({}, [])
        if not stems:
            report.problems.append(Problem('missing-set', path, 'no folder' if not others else 'no image in it'))
        for stem, names in stems.items():
            if len(names) > 1:
                report.problems.append(Problem('same-stem', fileio.join_path(path, names[1]), f'also {names[0]}'))
            stems[stem] = fileio.join_path(path, names[0])
        for name in others:
            report.problems.append(Problem('other-file', fileio.join_path(path, name), 'not used'))
        found[kind] = stems
    images, masks = found[image_folder], found[mask_folder]
    if ending := common_ending(images, masks):
        masks = {stem.removesuffix(ending): path for stem, path in masks.items()}
    report.images, report.masks = len(images), len(masks)
    if report.published is not None and images and report.images != report.published:
        report.problems.append(
            Problem(
                'count',
                fileio.join_path(folder, image_folder),
                f'{report.images} images, published: {report.published}',
            )
        )
    for stem in sorted(images.keys() ^ masks.keys()):
        kind, path = ('no-mask', images[stem]) if stem in images else ('no-image', masks[stem])
        other = mask_folder if stem in images else image_folder
        report.problems.append(Problem(kind, path, f'no file with this stem in {other}/'))
    return [Pair(set_name, images.get(stem), masks.get(stem), stem) for stem in sorted(images.keys() | masks.keys())]


def _check(file: Pair) -> _Found:
    """Problems of a pair, with the hashes of its image."""
    problems, image, mask, digest, looks = [], None, None, None, None
    if file.image:
        try:
            image = read_image(file.image)
            digest = hashlib.blake2b(image.tobytes() + str(image.shape).encode(), digest_size=16).digest()
            looks = perceptual_hash(image)
        except OSError as error:
            problems.append(Problem('unreadable', file.image, _told(error, file.image)))
    if file.mask:
        try:
            mask = read_mask_levels(file.mask)
        except OSError as error:
            problems.append(Problem('unreadable', file.mask, _told(error, file.mask)))
        except ValueError as error:
            problems.append(Problem('not-a-mask', file.mask, _told(error, file.mask)))
    if mask is not None and not mask.any():
        problems.append(Problem('empty-mask', file.mask, 'no foreground'))
    elif mask is not None and _is_inverted(mask):
        problems.append(Problem('inverted', file.mask, 'white along the border, and black inside'))
    if image is not None and mask is not None:
        turn = _turn_of(file.image)
        height, width = image.shape[:2]
        if turn is not None and (turn(mask).shape == (height, width) != mask.shape or _fits_turned(image, mask, turn)):
            detail = f'fits {file.image} without its EXIF orientation; turn the mask, or save the image upright'
            problems.append(Problem('unturned', file.mask, detail))
        elif mask.shape != (height, width):
            sizes = f'{mask.shape[1]}x{mask.shape[0]}, its image {width}x{height} (EXIF orientation applied)'
            problems.append(Problem('size', file.mask, sizes))
    return _Found(problems, digest, looks)


def perceptual_hash(image: np.ndarray) -> np.ndarray:
    """Perceptual hash ("dHash"): whether brightness increases from each cell of a 16x17 grid to the next in its row.

    Args:
        image: BGR, uint8 (H, W, 3).

    Returns:
        uint8 (32,), 256 bits.
    """
    gray = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY).astype(np.float32)
    cells = cv2.resize(gray, (_HASH_BITS + 1, _HASH_BITS), interpolation=cv2.INTER_AREA)
    return np.packbits(cells[:, 1:] > cells[:, :-1])


def _is_inverted(mask: np.ndarray) -> bool:
    """Whether at least nine tenths of the border are white, and there is a black object inside."""
    object_ = mask_to_float(mask) > 0.5
    border = np.concatenate([object_[0], object_[-1], object_[:, 0], object_[:, -1]])
    return bool(border.mean() > 0.9 and object_.mean() < border.mean() and not object_.all())


def _turn_of(path: str) -> Callable[[np.ndarray], np.ndarray] | None:
    """Function that applies the EXIF orientation of an image; ``None`` if it is upright."""
    try:
        with Image.open(io.BytesIO(fileio.get(path))) as image:
            orientation = image.getexif().get(_ORIENTATION, 1)
    except OSError:  # read by another decoder
        return None
    return _TURNS.get(orientation)


def _fits_turned(image: np.ndarray, mask: np.ndarray, turn: Callable[[np.ndarray], np.ndarray]) -> bool:
    """Whether the edges of the rotated mask are on stronger edges of the image than those of the original mask."""
    mask = mask_to_float(mask)
    if not mask.shape == turn(mask).shape == image.shape[:2]:
        return False
    kernel = np.ones((3, 3), np.uint8)
    gray = cv2.GaussianBlur(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), (0, 0), 1.5)
    edges = cv2.morphologyEx(gray, cv2.MORPH_GRADIENT, kernel)

    def strength(mask: np.ndarray) -> float:
        outline = cv2.morphologyEx(np.ascontiguousarray(mask), cv2.MORPH_GRADIENT, kernel) > 0.5
        return float(edges[outline].mean()) if outline.any() else 0.0

    return strength(turn(mask)) > _EDGE_RATIO * strength(mask)


def _told(error: Exception, path: str) -> str:
    return str(error).removeprefix(f'{path}: ')
