"""Files that appear whole or not at all, whatever kills the process or the machine."""

import os
import shutil
from pathlib import Path


def temporary_name(path: str | os.PathLike) -> Path:
    """Where to write what is to become ``path``: beside it, hidden, told by the process."""
    path = Path(path)
    return path.with_name(f'.{path.name}.{os.getpid()}.tmp')


def publish(temporary: str | os.PathLike, path: str | os.PathLike) -> None:
    """Give a file or folder that is written its name, in place of what had it, once it is on the disk.

    Raises:
        OSError: If the disk is full, for example; ``path`` is then as it was.
    """
    temporary, path = Path(temporary), Path(path)
    for part in [temporary, *temporary.rglob('*')] if temporary.is_dir() else [temporary]:
        _sync(part)
    if path.is_dir():
        shutil.rmtree(path)
    os.replace(temporary, path)
    _sync(path.parent)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write a small text file.

    Raises:
        OSError: As :func:`publish`.
    """
    temporary = temporary_name(path)
    try:
        temporary.write_text(text)
        publish(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
