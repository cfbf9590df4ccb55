"""Sets on disk: where they are below a data root, and which of their files belong together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from mmengine import fileio

from mmbirefnet.datasets.benchmarks import CODDataset, DIS5KDataset, HRSODDataset, MattingDataset
from mmbirefnet.imaging.formats import IMAGE_SUFFIXES

FAMILIES = {family.FAMILY: family.SET_SIZES for family in (DIS5KDataset, CODDataset, HRSODDataset, MattingDataset)}
PUBLISHED_SIZES = {name: size for sizes in FAMILIES.values() for name, size in sizes.items()}
"""Published number of images of each known set."""
IMAGES, MASKS = 'im', 'gt'


def find_sets(root: str, names: Sequence[str] | None = None) -> dict[str, str | None]:
    """Sets below a data root: folders that have ``im/`` or ``gt/``, in it, two levels deep.

    Args:
        root: Data root, or a set itself.
        names: Only these: names of sets, paths of sets below ``root``, or names of families for all their sets.

    Returns:
        Name of each set to its path relative to ``root`` (``''`` for the root itself), None where it is missing. Sets
        of one name in several places have their paths for names.

    Raises:
        FileNotFoundError: ``root`` has no set.
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
    children = sorted(fileio.list_dir_or_file(folder, list_file=False)) if fileio.isdir(folder) else []
    if IMAGES in children or MASKS in children:
        return [path]
    if not depth:
        return []
    return [each for child in children for each in _search(root, f'{path}/{child}' if path else child, depth - 1)]


def _last(path: str) -> str:
    return path.rstrip('/').rpartition('/')[2]


def list_folder(folder: str) -> tuple[dict[str, list[str]], list[str]]:
    """Files of a folder of images or masks, and of the folders in it.

    Returns:
        Stem (path without suffix) to the names of its files, sorted by stem; and names with other suffixes.
    """
    stems, others = defaultdict(list), []
    for name in sorted(fileio.list_dir_or_file(folder, list_dir=False, recursive=True)):
        stem, dot, suffix = name.rpartition('.')
        if dot + suffix.lower() in IMAGE_SUFFIXES:
            stems[stem].append(name)
        else:
            others.append(name)
    return dict(sorted(stems.items())), others
