"""What an inferencer is called with, as a list of sources: paths, folders, globs, arrays, PIL images, lists of them."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from mmbirefnet.imaging.formats import IMAGE_SUFFIXES
from mmbirefnet.imaging.read import LoadedImage, load_image

VIDEO_SUFFIXES = ('.mp4', '.mov', '.mkv', '.webm', '.avi', '.m4v', '.mpg', '.mpeg', '.wmv', '.flv', '.ts')


@dataclass(frozen=True, eq=False)  # two are equal if they are one, so that arrays will do
class Source:
    """Something that can be read as an image.

    Attributes:
        content: A path, or an image in memory.
        key: Where its outputs belong, relative to the output folder: its path below the folder that was given.
        name: What messages call it.
    """

    content: object
    key: Path
    name: str

    @property
    def path(self) -> Path | None:
        """The file, for one on disk."""
        return self.content if isinstance(self.content, Path) else None

    def read(self, channel_order: str = 'bgr') -> LoadedImage:
        """The image; errors as :func:`load_image`."""
        return load_image(self.content, None if self.path else self.name, channel_order)


def is_video(item: object) -> bool:
    """Whether ``item`` is the path of a video, told by its suffix."""
    return isinstance(item, (str, os.PathLike)) and Path(item).suffix.lower() in VIDEO_SUFFIXES


def is_single(inputs: object) -> bool:
    """Whether ``inputs`` stands for one image, not for a list of them."""
    if isinstance(inputs, (str, os.PathLike)):
        return not Path(inputs).is_dir() and not _is_glob(inputs)
    return isinstance(inputs, (np.ndarray, Image.Image, LoadedImage, bytes)) or hasattr(inputs, 'read')


def list_sources(inputs, exclude: Path | None = None) -> list[Source]:
    """Everything that ``inputs`` names, files of folders and globs sorted, none twice.

    Folders are searched with their sub-folders for files of ``IMAGE_SUFFIXES``; hidden ones are left out. A file that
    is named itself is taken whatever its suffix, and if it does not exist, since reading it tells.

    Args:
        inputs: Path, folder, glob (``**`` for sub-folders), array, PIL image, or a list of them.
        exclude: Folder below which nothing is searched: that of the outputs.

    Raises:
        FileNotFoundError: A folder or glob holds no image.
        ValueError: A folder is that of the outputs.
        TypeError: ``inputs`` is none of these.
    """
    items = [inputs] if is_single(inputs) or isinstance(inputs, (str, os.PathLike)) else inputs
    if not isinstance(items, Iterable):
        raise TypeError(f'inputs must be a path, folder, glob, array, PIL image or a list, not {type(inputs).__name__}')
    items = list(items)
    folders = sum(isinstance(item, (str, os.PathLike)) and Path(item).is_dir() for item in items)
    sources, seen = [], set()
    for index, item in enumerate(items):
        for source in _expand(item, index, folders > 1, exclude):
            identity = os.path.realpath(source.path) if source.path else index
            if identity not in seen:
                seen.add(identity)
                sources.append(source)
    return sources


def _expand(item, index: int, keep_folder: bool, exclude: Path | None) -> Iterator[Source]:
    if isinstance(item, Source):
        yield item
    elif not isinstance(item, (str, os.PathLike)):
        path = getattr(item, 'path', None) or getattr(item, 'filename', None) or getattr(item, 'name', None)
        stem = Path(path).name if isinstance(path, (str, os.PathLike)) and str(path) else f'{index:06d}.png'
        yield Source(item, Path(stem), str(path) if path else f'inputs[{index}]')
    elif Path(item).is_dir():
        root = Path(item)
        if exclude is not None and root.resolve() == exclude.resolve():
            raise ValueError(f'{root}: is the output folder too; name another for the output')
        found = list(_walk(root, exclude))
        if not found:
            raise FileNotFoundError(f'{root}: no images in this folder ({", ".join(IMAGE_SUFFIXES)})')
        for path in found:
            yield Source(
                path, (Path(root.resolve().name) if keep_folder else Path()) / path.relative_to(root), str(path)
            )
    elif _is_glob(item):
        root = _fixed_part(Path(item))
        found = sorted(Path(path) for path in glob.glob(str(item), recursive=True))
        found = [path for path in found if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()]
        if exclude is not None:
            found = [path for path in found if not path.resolve().is_relative_to(exclude.resolve())]
        if not found:
            raise FileNotFoundError(f'{item}: matches no images ({", ".join(IMAGE_SUFFIXES)})')
        for path in found:
            yield Source(path, path.relative_to(root), str(path))
    else:
        yield Source(Path(item), Path(Path(item).name), str(item))


def _walk(root: Path, exclude: Path | None) -> Iterator[Path]:
    excluded = exclude.resolve() if exclude else None
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(
            name for name in folders if not name.startswith('.') and Path(folder, name).resolve() != excluded
        )
        for name in sorted(files):
            if not name.startswith('.') and Path(name).suffix.lower() in IMAGE_SUFFIXES:
                yield Path(folder, name)


def _is_glob(item) -> bool:
    # A file may well be called a[1].jpg.
    return glob.has_magic(str(item)) and not Path(item).exists()


def _fixed_part(pattern: Path) -> Path:
    """The folders of a glob before the first wildcard."""
    parts = []
    for part in pattern.parts[:-1]:
        if glob.has_magic(part):
            break
        parts.append(part)
    return Path(*parts)
