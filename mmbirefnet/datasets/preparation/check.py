"""Checks of whole sets: every fault of every file, in one report."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple

import cv2
from mmengine import fileio

from mmbirefnet.datasets.preparation.find_sets import IMAGES, MASKS, PUBLISHED_SIZES, find_sets, list_folder
from mmbirefnet.datasets.transforms.decode import read_image, read_mask_levels

KINDS = {
    'missing-set': 'a set, or its folder of images or masks, is not there',
    'count': 'more or fewer images than published',
    'no-mask': 'an image without a mask',
    'no-image': 'a mask without an image',
    'same-stem': 'two files of one stem',
    'other-file': 'a file with another suffix than those of images',
    'unreadable': 'an image or mask that is empty, truncated, damaged or no image',
    'not-a-mask': 'a mask with colors, color and alpha that both vary, class ids, or other than 8 or 16 bits',
    'size': 'a mask of another size than its image',
    'empty-mask': 'a mask without foreground',
    'duplicate': 'an image with the same pixels as another one, in any of the sets',
}
"""What a :class:`Problem` can be."""


class Problem(NamedTuple):
    """A fault of one file, or of a set."""

    kind: str
    path: str
    detail: str


@dataclass
class SetReport:
    """What was found in one set."""

    images: int = 0
    masks: int = 0
    published: int | None = None
    problems: list[Problem] = field(default_factory=list)

    def kinds(self) -> Counter:
        """Number of problems of each kind."""
        return Counter(problem.kind for problem in self.problems)


class _File(NamedTuple):
    """An image, its mask, or both."""

    set_name: str
    image: str | None
    mask: str | None


def check_sets(
    root: str,
    names: Sequence[str] | None = None,
    processes: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, SetReport]:
    """Check sets file by file, in several processes.

    Args:
        root: Data root or set; see :func:`~mmbirefnet.datasets.preparation.find_sets.find_sets`, also for ``names``.
        names: Sets or families that have to be there; all that are by default.
        processes: Number of processes; one for each core by default.
        progress: Called with the number of files, or pairs of them, that are checked, and that of all.

    Returns:
        Report by name of the set. Duplicates are reported for the later one of two equal images.

    Raises:
        FileNotFoundError: ``root`` has no set at all.
    """
    reports, files = {}, []
    for name, path in find_sets(root, names).items():
        reports[name] = report = SetReport(published=PUBLISHED_SIZES.get(name.rpartition('/')[2]))
        if path is None:
            report.problems.append(Problem('missing-set', name, f'no such folder below {root}'))
        else:
            files += _match(name, fileio.join_path(root, path) if path else root, report)
    first_of = {}
    with ProcessPoolExecutor(processes or os.cpu_count(), initializer=cv2.setNumThreads, initargs=(0,)) as pool:
        chunk = max(1, min(16, len(files) // (4 * (processes or os.cpu_count()))))
        for index, (file, (problems, digest)) in enumerate(zip(files, pool.map(_check, files, chunksize=chunk))):
            reports[file.set_name].problems += problems
            if digest is not None and (first := first_of.setdefault(digest, file.image)) != file.image:
                problem = Problem('duplicate', file.image, f'the same pixels as {first}')
                reports[file.set_name].problems.append(problem)
            if progress:
                progress(index + 1, len(files))
    return reports


def _match(set_name: str, folder: str, report: SetReport) -> list[_File]:
    """Files of a set, put together by stem; what does not match goes into the report."""
    found = {}
    for kind in (IMAGES, MASKS):
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
    images, masks = found[IMAGES], found[MASKS]
    report.images, report.masks = len(images), len(masks)
    if report.published is not None and images and report.images != report.published:
        report.problems.append(
            Problem('count', fileio.join_path(folder, IMAGES), f'{report.images} images, published: {report.published}')
        )
    for stem in sorted(images.keys() ^ masks.keys()):
        kind, path = ('no-mask', images[stem]) if stem in images else ('no-image', masks[stem])
        report.problems.append(Problem(kind, path, f'nothing of that stem in {MASKS if stem in images else IMAGES}/'))
    return [_File(set_name, images.get(stem), masks.get(stem)) for stem in sorted(images.keys() | masks.keys())]


def _check(file: _File) -> tuple[list[Problem], bytes | None]:
    """Problems of a pair, and the digest of the image's pixels."""
    problems, image, mask, digest = [], None, None, None
    if file.image:
        try:
            image = read_image(file.image)
            digest = hashlib.blake2b(image.tobytes() + str(image.shape).encode(), digest_size=16).digest()
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
    if image is not None and mask is not None and image.shape[:2] != mask.shape:
        height, width = image.shape[:2]
        sizes = f'{mask.shape[1]}x{mask.shape[0]}, its image {width}x{height} (EXIF orientation applied)'
        problems.append(Problem('size', file.mask, sizes))
    return problems, digest


def _told(error: Exception, path: str) -> str:
    return str(error).removeprefix(f'{path}: ')
