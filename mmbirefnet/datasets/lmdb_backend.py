"""Sets in an LMDB file, named by paths such as ``lmdb://data/DIS5K.lmdb/DIS-TR/im/1.jpg``."""

from __future__ import annotations

import os
from collections.abc import Iterator

from mmengine.fileio import BaseStorageBackend, register_backend

PREFIX = 'lmdb://'
SUFFIX = '.lmdb'
_environments = {}


def _close_all() -> None:
    while _environments:
        _environments.popitem()[1].close()


# LMDB must not be carried over a fork: the workers of a data loader open it anew.
os.register_at_fork(after_in_child=_close_all)


def split(uri: str) -> tuple[str, str]:
    """File of the database, which ends in ``.lmdb``, and the key in it.

    Raises:
        ValueError: No part of the path ends in ``.lmdb``.
    """
    parts = str(uri).removeprefix(PREFIX).rstrip('/').split('/')
    for index, part in enumerate(parts):
        if part.endswith(SUFFIX):
            return '/'.join(parts[: index + 1]), '/'.join(parts[index + 1 :])
    raise ValueError(f'{uri}: expected {PREFIX}<file>{SUFFIX}/<path in it>')


def open_readonly(path: str):
    """The database at ``path``, opened once in each process.

    Raises:
        FileNotFoundError: There is none.
        ImportError: The package lmdb is not installed.
    """
    try:
        import lmdb
    except ImportError as error:
        raise ImportError(f'{path}: reading it needs the package lmdb: pip install lmdb') from error
    key = os.path.abspath(path)
    if key not in _environments:
        if not os.path.isfile(path):
            raise FileNotFoundError(f'{path}: no such LMDB file')
        _environments[key] = lmdb.open(path, subdir=False, readonly=True, lock=False, readahead=False)
    return _environments[key]


@register_backend('mmbirefnet.lmdb', prefixes='lmdb', force=True)
class LmdbUriBackend(BaseStorageBackend):
    """Files in an LMDB by their path, so that a data root can be ``lmdb://<file>.lmdb``.

    Other than mmengine's ``LmdbBackend`` it needs no arguments, lists folders, and names what is missing.
    """

    def get(self, filepath: str) -> bytes:
        """Content of a file."""
        path, key = split(filepath)
        with open_readonly(path).begin() as transaction:
            value = transaction.get(key.encode()) if key else None
        if value is None:
            raise FileNotFoundError(f'{filepath}: not in the database')
        return value

    def get_text(self, filepath: str, encoding: str = 'utf-8') -> str:
        return self.get(filepath).decode(encoding)

    def isdir(self, filepath: str) -> bool:
        """Whether there are files below a path."""
        path, key = split(filepath)
        return os.path.isfile(path) and next(self._names(path, key), None) is not None

    def isfile(self, filepath: str) -> bool:
        path, key = split(filepath)
        with open_readonly(path).begin() as transaction:
            return bool(key) and transaction.get(key.encode()) is not None

    def exists(self, filepath: str) -> bool:
        return self.isdir(filepath) or self.isfile(filepath)

    def join_path(self, filepath: str, *filepaths: str) -> str:
        return '/'.join([filepath.rstrip('/'), *filepaths])

    def list_dir_or_file(
        self,
        dir_path: str,
        list_dir: bool = True,
        list_file: bool = True,
        suffix: str | tuple[str, ...] | None = None,
        recursive: bool = False,
    ) -> Iterator[str]:
        """Paths below a folder, relative to it, as of mmengine's other backends."""
        seen = set()
        for name in self._names(*split(dir_path)):
            folders = name.split('/')[:-1]
            if list_dir:
                depths = range(1, len(folders) + 1) if recursive else range(1, min(len(folders), 1) + 1)
                for folder in ('/'.join(folders[:depth]) for depth in depths):
                    if folder not in seen:
                        seen.add(folder)
                        yield folder
            if list_file and (recursive or not folders) and (suffix is None or name.endswith(suffix)):
                yield name

    @staticmethod
    def _names(path: str, key: str) -> Iterator[str]:
        """Keys below ``key/``, relative to it; the database keeps them sorted."""
        prefix = f'{key}/'.encode() if key else b''
        with open_readonly(path).begin() as transaction, transaction.cursor() as cursor:
            if not cursor.set_range(prefix):
                return
            for found in cursor.iternext(keys=True, values=False):
                if not found.startswith(prefix):
                    return
                yield found[len(prefix) :].decode()
