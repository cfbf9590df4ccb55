"""Files that appear whole or not at all, whatever kills the process or the machine."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """A temporary name beside ``path``, where the block writes what then takes its place.

    Raises:
        OSError: As :func:`publish`.
    """
    path = Path(path)
    temporary = path.with_name(f'.{path.name}.{os.getpid()}.tmp')
    try:
        yield temporary
        publish(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


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


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
