"""What an inferencer is called with, as a list of sources: paths, folders, globs, arrays, PIL images, lists of them."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from mmbirefnet.imaging.formats import IMAGE_SUFFIXES
from mmbirefnet.imaging.read import LoadedImage, has_image_signature, load_image

if TYPE_CHECKING:
    from mmbirefnet.imaging.sandbox import ImageDecoder

VIDEO_SUFFIXES = (
    '.mp4', '.mov', '.mkv', '.webm', '.avi', '.m4v', '.mpg', '.mpeg', '.wmv', '.flv', '.ts', '.mts', '.m2ts', '.3gp',
    '.ogv', '.mxf',
)  # fmt: skip


@dataclass(frozen=True, eq=False)  # identity comparison: dataclass equality would compare arrays element-wise
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

    def read(
        self, channel_order: str = 'bgr', decoder: ImageDecoder | None = None, max_pixels: int | None = None
    ) -> LoadedImage:
        """Read the image; errors as :func:`load_image`.

        Args:
            channel_order: Of arrays.
            decoder: Decodes files and bytes in worker processes; ``None`` for this process.
            max_pixels: Largest image decoded in this process.
        """
        name = None if self.path else self.name
        if decoder is not None and isinstance(self.content, (Path, bytes)):
            return decoder.read(self.content, name)
        return load_image(self.content, name, channel_order, max_pixels)


def is_video(item: object) -> bool:
    """Whether ``item`` is the path of a video, by its suffix."""
    return isinstance(item, (str, os.PathLike)) and Path(item).suffix.lower() in VIDEO_SUFFIXES


def is_url(item: object) -> bool:
    """Whether ``item`` is text that begins as a URL does."""
    return isinstance(item, str) and re.match(r'[a-z][a-z0-9+.-]+://', item, re.I) is not None


def is_single(inputs: object) -> bool:
    """Whether ``inputs`` stands for one image, not for a list of them."""
    if isinstance(inputs, (str, os.PathLike)):
        return not Path(inputs).is_dir() and not _is_glob(inputs)
    return isinstance(inputs, (np.ndarray, Image.Image, LoadedImage, bytes)) or hasattr(inputs, 'read')


def list_sources(inputs, exclude: Path | None = None, left_out: list[Path] | None = None) -> list[Source]:
    """Everything that ``inputs`` names, files of folders and globs sorted, none twice.

    Folders are searched with their sub-folders for files of ``IMAGE_SUFFIXES``, and for files without a suffix that
    begin as an image does. A file that is named itself is taken whatever its suffix, and if it does not exist: reading
    it raises the error.

    Args:
        inputs: Path, folder, glob (``**`` for sub-folders), array, PIL image, or a list of them.
        exclude: Folder below which nothing is searched: that of the outputs.
        left_out: Gets the files of folders and globs that are not images by their suffix; hidden files are not named.

    Raises:
        FileNotFoundError: A folder or glob holds no image.
        ValueError: A folder is that of the outputs, or an input is a URL.
        TypeError: ``inputs`` is none of these.
    """
    items = [inputs] if is_single(inputs) or isinstance(inputs, (str, os.PathLike)) else inputs
    if not isinstance(items, Iterable):
        raise TypeError(f'inputs must be a path, folder, glob, array, PIL image or a list, not {type(inputs).__name__}')
    items = list(items)
    folders = sum(isinstance(item, (str, os.PathLike)) and Path(item).is_dir() for item in items)
    sources, seen = [], set()
    left_out = [] if left_out is None else left_out
    for index, item in enumerate(items):
        for source in _expand(item, index, folders > 1, exclude, left_out):
            identity = os.path.realpath(source.path) if source.path else index
            if identity not in seen:
                seen.add(identity)
                sources.append(source)
    return sources


def _expand(item, index: int, keep_folder: bool, exclude: Path | None, left_out: list[Path]) -> Iterator[Source]:
    if isinstance(item, Source):
        yield item
    elif is_url(item):
        raise ValueError(f'{item}: a URL, but only files are read. Fix: download the image first')
    elif not isinstance(item, (str, os.PathLike)):
        path = getattr(item, 'path', None) or getattr(item, 'filename', None) or getattr(item, 'name', None)
        stem = Path(path).name if isinstance(path, (str, os.PathLike)) and str(path) else f'{index:06d}.png'
        yield Source(item, Path(stem), str(path) if path else f'inputs[{index}]')
    elif Path(item).is_dir():
        root = Path(item)
        if exclude is not None and root.resolve() == exclude.resolve():
            raise ValueError(f'{root}: is the output folder too; name another for the output')
        found = _images(_walk(root, exclude), left_out)
        if not found:
            raise FileNotFoundError(f'{root}: no images in this folder{describe_left_out(left_out)}')
        for path in found:
            yield Source(
                path, (Path(root.resolve().name) if keep_folder else Path()) / path.relative_to(root), str(path)
            )
    elif _is_glob(item):
        root = _fixed_part(Path(item))
        found = sorted(path for path in map(Path, glob.glob(str(item), recursive=True)) if path.is_file())
        if exclude is not None:
            found = [path for path in found if not path.resolve().is_relative_to(exclude.resolve())]
        found = _images(found, left_out)
        if not found:
            raise FileNotFoundError(f'{item}: matches no images{describe_left_out(left_out)}')
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
        yield from (Path(folder, name) for name in sorted(files) if not name.startswith('.'))


def _images(paths: Iterable[Path], left_out: list[Path]) -> list[Path]:
    """Those of the files that are images; the others are added to ``left_out``."""
    found = []
    for path in paths:
        suffix = path.suffix.lower()
        is_image = suffix in IMAGE_SUFFIXES or (not suffix and has_image_signature(path))
        (found if is_image else left_out).append(path)
    return found


def describe_left_out(paths: list[Path], most: int = 10) -> str:
    """``'; left out, not an image by its suffix: …'`` with the count and the first names; empty if there are none."""
    if not paths:
        return ''
    names = ', '.join(map(str, paths[:most])) + (', …' if len(paths) > most else '')
    return f'; left out, not an image by its suffix: {len(paths)} ({names})'


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
