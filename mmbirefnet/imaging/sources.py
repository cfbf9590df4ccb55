"""Convert inputs of an inferencer (paths, folders, globs, URLs, arrays, PIL images, lists) to a list of sources."""

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
    """A file at a URL, downloaded when it is read; arguments as for :func:`~mmbirefnet.imaging.urls.read_url`."""

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
        key: Path below the input folder, which is also that of its outputs below the output folder.
        name: Name in messages.
    """

    content: object
    key: Path
    name: str

    @property
    def path(self) -> Path | None:
        """Path of a file on disk; ``None`` for other sources."""
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
            channel_order: Order of the channels of arrays.
            decoder: Decodes files and bytes in worker processes; ``None`` decodes them in this process.
            max_pixels: Largest image to decode in this process, in pixels.
            frames: ``'all'`` reads all frames of an animation and all pages of a TIFF file, ``'first'`` only the first.
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
        """Whether the headers of a file declare several frames or pages.

        False for URLs, for files that cannot be read, and for suffixes for which the answer does not matter.
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
    """Whether ``inputs`` is one image instead of several."""
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

    In folders and globs, files with a suffix in ``IMAGE_SUFFIXES`` are used, and files without a suffix that begin with
    the signature of an image. Files that are named explicitly are always listed, even if they do not exist; reading
    them raises the error.

    Args:
        inputs: Path, folder, glob (``**`` for subfolders), URL, array, PIL image, or a list of them.
        out_dir: Output folder, which is not searched.
        left_out: List to which other files of folders and globs are appended, except hidden ones.
        recursive: Whether to search subfolders.
        include: Patterns with ``*``, ``?`` and ``[…]``: in folders and globs, only files that match one of them are
            used. A pattern with a slash is compared with the path below the folder, any other with the file name.
        exclude: Patterns of files to leave out.
        max_bytes: Largest file to read from a URL, in bytes.
        allow_private_urls: Whether URLs may have addresses that are not public, see
            :func:`mmbirefnet.imaging.urls.read_url`.

    Raises:
        FileNotFoundError: If a folder or glob contains no image that the patterns allow.
        ValueError: If a folder is the output folder, or a URL does not begin with ``http://`` or ``https://``.
        TypeError: If ``inputs`` has another type.
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
    """Searches folders and globs; its fields are arguments of :func:`list_sources`."""

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
        """Return the images that the patterns allow; files that are not images are added to ``left_out``."""
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
        """Return the error for a folder or glob without an image."""
        if self.include or self.exclude:
            problem += f' (include: {", ".join(self.include) or "all"}; exclude: {", ".join(self.exclude) or "none"})'
        if not self.recursive:
            problem += ', subfolders not searched'
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
            raise ValueError(f'{root}: is also the output folder. Fix: choose another output folder')
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
    """Text ``'; left out, not an image by its suffix: …'`` with the count and the first names; empty without files."""
    if not paths:
        return ''
    names = ', '.join(map(str, paths[:most])) + (', …' if len(paths) > most else '')
    return f'; left out, not an image by its suffix: {len(paths)} ({names})'


def _is_glob(item) -> bool:
    # A file may be named a[1].jpg, and a URL may contain a question mark.
    return not is_url(item) and glob.has_magic(str(item)) and not Path(item).exists()


def _fixed_part(pattern: Path) -> Path:
    """The folders of a glob before the first wildcard."""
    parts = []
    for part in pattern.parts[:-1]:
        if glob.has_magic(part):
            break
        parts.append(part)
    return Path(*parts)
