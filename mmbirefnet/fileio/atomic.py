"""Atomic writing: files appear complete or not at all, even after a crash or loss of power. Hashes of files."""

import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: str | os.PathLike, overwrite: bool = True, sync: bool = True) -> Iterator[Path]:
    """Create a temporary file beside ``path`` that the block fills; it is then renamed to ``path``.

    The temporary name cannot be guessed, and links are not followed.

    Args:
        path: The file to write.
        overwrite: Whether to replace an existing file or link.
        sync: Whether to wait until the content is on the disk, so that a loss of power leaves either the old or the
            complete new file.

    Raises:
        OSError: As in :func:`publish`, or if the folder is not writable.
    """
    path = Path(path)
    temporary = path.with_name(f'.{secrets.token_hex(8)}.tmp')
    try:
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    except OSError as error:  # the error has the temporary name
        raise OSError(error.errno, f'cannot be written ({error.strerror})', str(path)) from error
    try:
        yield temporary
        publish(temporary, path, overwrite, sync)
    finally:
        temporary.unlink(missing_ok=True)


def publish(temporary: str | os.PathLike, path: str | os.PathLike, overwrite: bool = True, sync: bool = True) -> None:
    """Rename a complete file or folder to its final name.

    Args:
        temporary: The file or folder, on the file system of ``path``.
        path: Final name.
        overwrite: Whether to replace an existing file by a file, or a folder by a folder.
        sync: Whether to wait until it is on the disk.

    Raises:
        FileExistsError: If ``overwrite`` is off and ``path`` exists, even as a broken link.
        OSError: If the disk is full, for example; ``path`` then does not change.
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


def already_exists(path: str | os.PathLike) -> FileExistsError:
    """The error for a file that exists and must not be replaced."""
    return FileExistsError(f'{path}: already exists')


def _claim(temporary: Path, path: Path) -> None:
    """Rename a file to ``path`` unless ``path`` exists, in one atomic step."""
    try:
        os.link(temporary, path)
        temporary.unlink()
    except FileExistsError:
        raise already_exists(path) from None
    except OSError:  # a file system without hard links: reserve the name with an empty file, which is then replaced
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        except FileExistsError:
            raise already_exists(path) from None


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
