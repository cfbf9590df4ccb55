"""The inputs of an inferencer (paths, folders, globs, URLs, arrays, PIL images, lists) as a list of sources."""

from __future__ import annotations

import fnmatch
import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import numpy as np
from PIL import Image

from mmbirefnet.imaging.formats import FORMATS, IMAGE_SUFFIXES
from mmbirefnet.imaging.frames import count_frames, load_frames
from mmbirefnet.imaging.read import LoadedImage, LoadedSequence, has_image_signature, load_image, open_source
from mmbirefnet.imaging.urls import MAX_BYTES, has_scheme, is_url, read_url

if TYPE_CHECKING:
    from mmbirefnet.imaging.sandbox import ImageDecoder

VIDEO_SUFFIXES = (
    '.mp4', '.mov', '.mkv', '.webm', '.avi', '.m4v', '.mpg', '.mpeg', '.wmv', '.flv', '.ts', '.mts', '.m2ts', '.3gp',
    '.ogv', '.mxf',
)  # fmt: skip
_SEQUENCE_SUFFIXES = (*FORMATS['GIF'], *FORMATS['WEBP'], *FORMATS['TIFF'], *FORMATS['AVIF'])


@dataclass(frozen=True)
class RemoteFile:
    """A file on the web, downloaded when it is read; arguments as for :func:`~mmbirefnet.imaging.urls.read_url`."""

    url: str
    max_bytes: int = MAX_BYTES
    allow_private: bool = False

    def read(self) -> bytes:
        return read_url(self.url, max_bytes=self.max_bytes, allow_private=self.allow_private)


@dataclass(frozen=True, eq=False)  # identity comparison: dataclass equality would compare arrays element-wise
class Source:
    """Something that can be read as an image.

    Attributes:
        content: A path, a :class:`RemoteFile`, or an image in memory.
        key: Path of its outputs relative to the output folder: its path below the given folder.
        name: Name in messages.
    """

    content: object
    key: Path
    name: str

    @property
    def path(self) -> Path | None:
        """The file, for one on disk."""
        return self.content if isinstance(self.content, Path) else None

    def read(
        self,
        channel_order: str = 'bgr',
        decoder: ImageDecoder | None = None,
        max_pixels: int | None = None,
        frames: str = 'first',
    ) -> LoadedImage | LoadedSequence:
        """Read the image; errors as :func:`load_image`.

        Args:
            channel_order: Of arrays.
            decoder: Decodes files and bytes in worker processes; ``None`` for this process.
            max_pixels: Largest image decoded in this process.
            frames: ``'all'`` reads all frames of an animation and all pages of a TIFF file, ``'first'`` the first.
        """
        name = None if self.path else self.name
        content = self.content.read() if isinstance(self.content, RemoteFile) else self.content
        is_file = isinstance(content, (Path, bytes))
        if decoder is not None and is_file:
            return decoder.read(content, name, frames)
        if frames == 'all' and is_file:
            return load_frames(content, name, max_pixels)
        return load_image(content, name, channel_order, max_pixels)

    def is_sequence(self, decoder: ImageDecoder | None = None, max_pixels: int | None = None) -> bool:
        """Whether it is a file with several frames or pages, from its headers.

        Files on the web, files whose format keeps its suffix anyway, and files that cannot be read are not looked at.
        """
        content = self.content
        if not isinstance(content, (Path, bytes)) or self.key.suffix.lower() not in _SEQUENCE_SUFFIXES:
            return False
        try:
            if decoder is not None:
                return decoder.count_frames(content, self.name) > 1
            with open_source(content) as file:
                return count_frames(file, self.name, max_pixels) > 1
        except (OSError, ValueError):  # raised again when it is read
            return False


def is_video(item: object) -> bool:
    """Whether ``item`` is the path of a video, by its suffix."""
    return isinstance(item, (str, os.PathLike)) and Path(item).suffix.lower() in VIDEO_SUFFIXES


def is_single(inputs: object) -> bool:
    """Whether ``inputs`` stands for one image, not for a list of them."""
    if isinstance(inputs, (str, os.PathLike)):
        return is_url(inputs) or (not Path(inputs).is_dir() and not _is_glob(inputs))
    return isinstance(inputs, (np.ndarray, Image.Image, LoadedImage, Source, bytes)) or hasattr(inputs, 'read')


def list_sources(
    inputs,
    out_dir: Path | None = None,
    left_out: list[Path] | None = None,
    *,
    recursive: bool = True,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    max_bytes: int = MAX_BYTES,
    allow_private_urls: bool = False,
) -> list[Source]:
    """List the sources of ``inputs``; files of folders and globs are sorted, and none is listed twice.

    Folders are searched for files of ``IMAGE_SUFFIXES``, and for files without a suffix that begin as an image does. A
    file that is named itself is taken whatever its suffix and name, and if it does not exist: reading it raises the
    error.

    Args:
        inputs: Path, folder, glob (``**`` for sub-folders), URL, array, PIL image, or a list of them.
        out_dir: Folder below which nothing is searched: that of the outputs.
        left_out: Gets the files of folders and globs that are not images by their suffix; hidden files are not named.
        recursive: Whether to search the sub-folders of folders.
        include: Patterns with ``*``, ``?`` and ``[…]``; of folders and globs, only files that match one of them are
            taken. A pattern with a slash is compared with the path below the folder, any other with the file's name.
        exclude: Patterns of files that are left alone.
        max_bytes: Largest file that is read from a URL.
        allow_private_urls: Whether a URL may lead to an address that is not public, see
            :func:`mmbirefnet.imaging.urls.read_url`.

    Raises:
        FileNotFoundError: A folder or glob holds no image that the patterns allow.
        ValueError: A folder is that of the outputs, or a URL does not begin with ``http://`` or ``https://``.
        TypeError: ``inputs`` is none of these.
    """
    items = [inputs] if is_single(inputs) or isinstance(inputs, (str, os.PathLike)) else inputs
    if not isinstance(items, Iterable):
        raise TypeError(
            f'inputs must be a path, folder, glob, URL, array, PIL image or a list, not {type(inputs).__name__}'
        )
    items = list(items)
    folders = sum(isinstance(item, (str, os.PathLike)) and Path(item).is_dir() for item in items)
    left_out = [] if left_out is None else left_out
    search = _Search(out_dir, recursive, _texts('include', include), _texts('exclude', exclude), left_out)
    sources, seen = [], set()
    for index, item in enumerate(items):
        if is_url(item):
            found = [_remote_source(RemoteFile(item, max_bytes, allow_private_urls), index)]
        else:
            found = _expand(item, index, folders > 1, search)
        for source in found:
            identity = os.path.realpath(source.path) if source.path else index
            if identity not in seen:
                seen.add(identity)
                sources.append(source)
    return sources


def _texts(option: str, patterns: Sequence[str]) -> tuple[str, ...]:
    patterns = (patterns,) if isinstance(patterns, str) else tuple(patterns)
    if not all(isinstance(pattern, str) and pattern for pattern in patterns):
        raise ValueError(f'{option}={patterns!r}, must be patterns such as "*.jpg"')
    return patterns


@dataclass(frozen=True)
class _Search:
    """How folders and globs are searched; fields as the arguments of :func:`list_sources`."""

    out_dir: Path | None
    recursive: bool
    include: tuple[str, ...]
    exclude: tuple[str, ...]
    left_out: list[Path]

    def walk(self, root: Path) -> Iterator[Path]:
        excluded = self.out_dir.resolve() if self.out_dir else None
        for folder, folders, files in os.walk(root):
            folders[:] = sorted(
                name
                for name in folders
                if self.recursive and not name.startswith('.') and Path(folder, name).resolve() != excluded
            )
            yield from (Path(folder, name) for name in sorted(files) if not name.startswith('.'))

    def images(self, paths: Iterable[Path], root: Path) -> list[Path]:
        """Those of the files that the patterns allow and that are images; the others are added to ``left_out``."""
        found = []
        for path in paths:
            key = path.relative_to(root).as_posix()
            if (self.include and not _matches(key, self.include)) or _matches(key, self.exclude):
                continue
            suffix = path.suffix.lower()
            is_image = suffix in IMAGE_SUFFIXES or (not suffix and has_image_signature(path))
            (found if is_image else self.left_out).append(path)
        return found

    def nothing(self, problem: str) -> FileNotFoundError:
        """The error for a folder or glob without an image."""
        if self.include or self.exclude:
            problem += f' (include: {", ".join(self.include) or "all"}; exclude: {", ".join(self.exclude) or "none"})'
        if not self.recursive:
            problem += ', sub-folders not searched'
        return FileNotFoundError(f'{problem}{describe_left_out(self.left_out)}')


def _matches(key: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(key if '/' in p else key.rpartition('/')[2], p) for p in patterns)


def _remote_source(file: RemoteFile, index: int) -> Source:
    name = Path(unquote(urlsplit(file.url).path)).name
    return Source(file, Path(name or f'{index:06d}'), file.url)


def _expand(item, index: int, keep_folder: bool, search: _Search) -> Iterator[Source]:
    if isinstance(item, Source):
        yield item
    elif has_scheme(item):
        raise ValueError(f'{item}: a URL that does not begin with http:// or https://. Fix: download the image first')
    elif not isinstance(item, (str, os.PathLike)):
        path = getattr(item, 'path', None) or getattr(item, 'filename', None) or getattr(item, 'name', None)
        stem = Path(path).name if isinstance(path, (str, os.PathLike)) and str(path) else f'{index:06d}.png'
        yield Source(item, Path(stem), str(path) if path else f'inputs[{index}]')
    elif Path(item).is_dir():
        root = Path(item)
        if search.out_dir is not None and root.resolve() == search.out_dir.resolve():
            raise ValueError(f'{root}: is the output folder too; name another for the output')
        found = search.images(search.walk(root), root)
        if not found:
            raise search.nothing(f'{root}: no images in this folder')
        for path in found:
            yield Source(
                path, (Path(root.resolve().name) if keep_folder else Path()) / path.relative_to(root), str(path)
            )
    elif _is_glob(item):
        root = _fixed_part(Path(item))
        found = sorted(path for path in map(Path, glob.glob(str(item), recursive=True)) if path.is_file())
        if search.out_dir is not None:
            found = [path for path in found if not path.resolve().is_relative_to(search.out_dir.resolve())]
        found = search.images(found, root)
        if not found:
            raise search.nothing(f'{item}: matches no images')
        for path in found:
            yield Source(path, path.relative_to(root), str(path))
    else:
        yield Source(Path(item), Path(Path(item).name), str(item))


def describe_left_out(paths: list[Path], most: int = 10) -> str:
    """``'; left out, not an image by its suffix: …'`` with the count and the first names; empty if there are none."""
    if not paths:
        return ''
    names = ', '.join(map(str, paths[:most])) + (', …' if len(paths) > most else '')
    return f'; left out, not an image by its suffix: {len(paths)} ({names})'


def _is_glob(item) -> bool:
    # A file may well be called a[1].jpg, and a URL may have a question mark.
    return not is_url(item) and glob.has_magic(str(item)) and not Path(item).exists()


def _fixed_part(pattern: Path) -> Path:
    """The folders of a glob before the first wildcard."""
    parts = []
    for part in pattern.parts[:-1]:
        if glob.has_magic(part):
            break
        parts.append(part)
    return Path(*parts)
