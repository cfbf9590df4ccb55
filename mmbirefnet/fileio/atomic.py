"""Files that appear whole or not at all, whatever kills the process or the machine, and their hash."""

import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: str | os.PathLike, overwrite: bool = True, sync: bool = True) -> Iterator[Path]:
    """Create an empty file beside ``path``, which the block fills and which then gets its name.

    The file's name cannot be guessed and is not followed if it is a link.

    Args:
        path: The file to write.
        overwrite: Whether to replace a file or link that has the name.
        sync: Whether to wait until the content is on the disk, so that a loss of power leaves the old file or the
            whole new one.

    Raises:
        OSError: As :func:`publish`, or if the folder cannot be written to.
    """
    path = Path(path)
    temporary = path.with_name(f'.{secrets.token_hex(8)}.tmp')
    try:
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    except OSError as error:  # which has the temporary name
        raise OSError(error.errno, f'cannot be written ({error.strerror})', str(path)) from error
    try:
        yield temporary
        publish(temporary, path, overwrite, sync)
    finally:
        temporary.unlink(missing_ok=True)


def publish(temporary: str | os.PathLike, path: str | os.PathLike, overwrite: bool = True, sync: bool = True) -> None:
    """Give a file or folder that is complete its name.

    Args:
        temporary: The file or folder, on the file system of ``path``.
        path: Its name.
        overwrite: Whether to replace what has the name: a file by a file, a folder by a folder.
        sync: Whether to wait until it is on the disk.

    Raises:
        FileExistsError: If ``overwrite`` is off and something has the name, if only a link that leads nowhere.
        OSError: If the disk is full, for example; ``path`` is then as it was.
    """
    temporary, path = Path(temporary), Path(path)
    if sync:
        for part in [temporary, *temporary.rglob('*')] if temporary.is_dir() else [temporary]:
            _sync(part)
    if not overwrite:
        _claim(temporary, path)
    elif temporary.is_dir() and path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    if overwrite or temporary.exists():
        os.replace(temporary, path)
    if sync:
        _sync(path.parent)


def _claim(temporary: Path, path: Path) -> None:
    """Give ``path`` to the file unless it is taken, in one step of the system."""
    try:
        os.link(temporary, path)
        temporary.unlink()
    except FileExistsError:
        raise FileExistsError(f'{path}: exists already') from None
    except OSError:  # a file system without hard links: take the name with an empty file, which is then replaced
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        except FileExistsError:
            raise FileExistsError(f'{path}: exists already') from None


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file in hexadecimal digits; ``hashlib.file_digest`` needs Python 3.11."""
    digest = hashlib.sha256()
    with path.open('rb') as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
