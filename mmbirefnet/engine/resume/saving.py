"""Writing the checkpoints of a run so that a crash at any moment leaves the former ones."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from mmengine.dist import barrier, is_main_process
from mmengine.runner import Runner, find_latest_checkpoint

from mmbirefnet.fileio.atomic import publish, replacing

INTERRUPTED = 'interrupted.pth'
"""Name of the checkpoint of a run that was asked to stop; the next one replaces it."""
TEMPORARY = '.{}.tmp'


def save_safely(runner: Runner, folder: str, name: str, **options) -> str:
    """``runner.save_checkpoint`` under a temporary name, which becomes ``name`` once the file is on the disk.

    Then ``last_checkpoint``, the file in the work directory that names the newest one, is replaced in the same way.

    Args:
        runner: Of mmengine, on all ranks.
        folder: A local one.
        name: Of the checkpoint.
        **options: Of ``runner.save_checkpoint``.

    Returns:
        Path of the checkpoint.

    Raises:
        OSError: If it cannot be written, as on a full disk; says which one is kept.
    """
    write_safely(runner, folder, name, **options)
    path = os.path.join(folder, name)
    if is_main_process():
        with replacing(os.path.join(runner.work_dir, 'last_checkpoint')) as temporary:
            temporary.write_text(path)
    return path


def write_safely(runner: Runner, folder: str, name: str, **options) -> None:
    """As :func:`save_safely`, for a checkpoint that ``last_checkpoint`` is not to name."""
    path = Path(folder, name)
    temporary = path.with_name(TEMPORARY.format(name))  # one name on all ranks, which may write parts of it
    try:
        runner.save_checkpoint(folder, temporary.name, **options)
        if not isinstance(runner, Runner):  # FlexibleRunner saves on all ranks
            barrier()
        if is_main_process():
            publish(temporary, path)
    except OSError as error:
        free = shutil.disk_usage(folder).free / 2**20
        raise OSError(
            error.errno,
            f'{error.strerror}: the checkpoint {path} was not written ({free:.0f} MiB are free); '
            f'the last one is {find_latest_checkpoint(runner.work_dir)}',
        ) from error
    finally:
        if is_main_process():
            remove(temporary)


def remove(path: str | os.PathLike) -> None:
    """Remove a checkpoint, a file or a folder of shards, if it is there."""
    path = Path(path)
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
