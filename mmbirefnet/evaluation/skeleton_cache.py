"""Skeletons of masks on disk, so that a mask is thinned once and not in every evaluation."""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
import zlib
from pathlib import Path

import numpy as np
from mmengine.logging import print_log

from .functional.skeleton import skeletonize


def default_cache_dir() -> Path:
    """``$XDG_CACHE_HOME/mmbirefnet/skeletons``, by default below ``~/.cache``."""
    base = os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache'
    return Path(base) / 'mmbirefnet' / 'skeletons'


def open_skeleton_cache(option: str | Path | None) -> SkeletonCache | None:
    """The cache which an option names: a folder, ``'auto'`` for the user's cache folder, ``None`` for none.

    Where the user's cache folder cannot be written, a warning says so and there is none.

    Raises:
        OSError: if a folder was named and cannot be written.
    """
    if option is None:
        return None
    try:
        cache = SkeletonCache(None if option == 'auto' else option)
        cache.check_writable()
    except (OSError, RuntimeError) as error:  # RuntimeError: a user without a home folder
        if option != 'auto':
            raise
        print_log(f'{error}; no skeletons are kept', 'current', logging.WARNING)
        return None
    return cache


class SkeletonCache:
    """Folder of skeletons, each under the hash of its mask's content: moving or renaming data changes nothing.

    Several processes may share a folder. A file takes about 10 KB for a mask of 4 megapixels; any may be deleted.

    Args:
        folder: where the files are; made when the first one is written.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        self.folder = Path(folder).expanduser() if folder is not None else default_cache_dir()
        self._warned = False

    def skeleton(self, mask: np.ndarray) -> np.ndarray:
        """The skeleton of a mask, bool (H, W), read from the folder or computed and written there.

        If it cannot be written, as on a full disk, a warning says so.
        """
        packed = np.packbits(mask).tobytes()
        key = hashlib.sha256(repr(mask.shape).encode() + packed).hexdigest()[:40]
        path = self.folder / f'{key}.bits.z'
        try:
            bits = zlib.decompress(path.read_bytes())
            if len(bits) == len(packed):
                unpacked = np.unpackbits(np.frombuffer(bits, np.uint8), count=mask.size)
                return unpacked.view(np.bool_).reshape(mask.shape)
        except (OSError, zlib.error):  # a damaged file is written again
            pass
        skeleton = skeletonize(mask)
        try:
            self._write(path, zlib.compress(np.packbits(skeleton).tobytes(), 1))
        except OSError as error:
            if not self._warned:
                print_log(f'{error}; skeletons are computed every time', 'current', logging.WARNING)
            self._warned = True
        return skeleton

    def _write(self, path: Path, content: bytes) -> None:
        self.check_writable()
        # Another process may read or write the same file: it must never be there by half.
        handle, temporary = tempfile.mkstemp(dir=self.folder, suffix='.tmp')
        try:
            with os.fdopen(handle, 'wb') as file:
                file.write(content)
            os.replace(temporary, path)
        except OSError:
            os.unlink(temporary)
            raise

    def check_writable(self) -> None:
        """Make the folder.

        Raises:
            OSError: if it cannot be made or written, naming what to set instead.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            writable = os.access(self.folder, os.W_OK)
        except OSError:
            writable = False
        if not writable:
            raise OSError(
                f'cannot write the skeleton cache {self.folder}: give a folder that can be written '
                '(skeleton_cache, or XDG_CACHE_HOME), or None to keep no skeletons'
            )
