"""Write checkpoints so that a crash never destroys earlier ones, and find the newest intact one to resume."""

from __future__ import annotations

import logging
import os
import shutil
import zipfile
from collections.abc import Iterable
from pathlib import Path
from types import NoneType

from mmengine.dist import barrier, is_main_process
from mmengine.logging import print_log
from mmengine.runner import Runner, find_latest_checkpoint
from torch import Tensor

from mmbirefnet.fileio.atomic import publish, replacing
from mmbirefnet.fileio.restricted_unpickling import load_guarded

INTERRUPTED = 'interrupted.pth'
"""Name of the checkpoint of a run that was stopped by a signal; the next one replaces it."""
TEMPORARY = '.{}.tmp'
_NEEDED = {'meta', 'message_hub', 'optimizer', 'state_dict'}
_PLACE = ('epoch', 'iter')
_HUB_PARTS = ('log_scalars', 'runtime_info', 'resumed_keys')
_DICTS = ('state_dict', 'optimizer', 'message_hub', 'ema_state_dict', 'accumulated_gradients')


def is_training_checkpoint(path: str | os.PathLike) -> bool:
    """Whether a file is a training checkpoint that can be resumed, not only parameters."""
    try:
        return _meta_of(Path(path)) is not None
    except ValueError as error:
        _warn(path, error)
    except Exception:  # another format, or not a file
        pass
    return False


def newest_checkpoint(*folders: str | os.PathLike) -> str | None:
    """Find the newest intact checkpoint of work directories.

    Files without optimizer state (best and published ones) are skipped. Damaged files are skipped with a warning. The
    order is that of the times stored in the checkpoints, so it survives copying a folder.

    Returns:
        Path of the checkpoint; ``None`` if there is none.

    Raises:
        ValueError: If all checkpoints are damaged.
    """
    found, damaged = [], []
    for path in sorted(path for folder in folders for path in Path(folder).glob('*.pth')):
        try:
            meta = _meta_of(path)
        except Exception as error:  # torch raises many types of errors for damaged files
            damaged.append(path)
            _warn(path, error)
            continue
        if meta is not None:
            found.append((meta.get('time', ''), meta.get('iter', 0), path))
    for *_, path in sorted(found, reverse=True):
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()  # check the checksums of all parts
        if broken is None:
            return str(path)
        damaged.append(path)
        _warn(path, f'checksum of {broken}')
    if damaged:
        raise ValueError(
            f'all checkpoints to resume from are damaged: {", ".join(map(str, damaged))}. '
            'Fix: move them away to train from the start'
        )
    return None


def _meta_of(path: Path) -> dict | None:
    """The ``meta`` of a training checkpoint, without reading its tensors; ``None`` for other files.

    Raises:
        ValueError: If epoch, iteration or time are missing or invalid.
        Exception: See :func:`~mmbirefnet.fileio.restricted_unpickling.load_guarded`.
    """
    content = load_guarded(path, 'cpu', mmap=True)
    if not isinstance(content, dict) or not content.keys() >= _NEEDED:
        return None
    if problem := _problem(content):
        raise ValueError(problem)
    return content['meta']


def _problem(content: dict) -> str:
    """Reason why mmengine cannot resume from a checkpoint; empty if it can."""
    meta = content['meta']
    if not isinstance(meta, dict) or not all(isinstance(meta.get(key), int) and meta[key] >= 0 for key in _PLACE):
        return 'its meta has no valid epoch and iteration'
    if not isinstance(meta.get('time', ''), str) or not isinstance(meta.get('seed'), (int, NoneType)):
        return 'its meta has a time or seed of another type'
    if odd := [key for key in _DICTS if not isinstance(content.get(key, {}), dict)]:
        return f'its {odd[0]} is no dict'
    if not content['message_hub'].keys() >= set(_HUB_PARTS):
        return f'its message_hub lacks one of {", ".join(_HUB_PARTS)}'
    optimizer = content['optimizer']  # several optimizers, by name
    if 'param_groups' not in optimizer and not all(isinstance(each, dict) for each in optimizer.values() or ['']):
        return 'its optimizer has no param_groups'
    if not all(isinstance(each, Tensor) for each in content.get('accumulated_gradients', {}).values()):
        return 'its accumulated_gradients are no tensors'
    schedulers = content.get('param_schedulers', [])
    schedulers = schedulers.values() if isinstance(schedulers, dict) else schedulers
    if not isinstance(schedulers, Iterable) or not all(isinstance(each, (dict, list)) for each in schedulers):
        return 'its param_schedulers are no dicts'
    return ''


def _warn(path: Path, error: object) -> None:
    reason = f'{error}'.partition('\n')[0] or type(error).__name__
    print_log(f'{path}: truncated or damaged, not resumed from ({reason})', 'current', logging.WARNING)


def save_as_latest(runner: Runner, folder: str, name: str, **options) -> str:
    """Save a checkpoint with :func:`save_atomically`, then write its path to ``last_checkpoint`` in the work directory.

    ``last_checkpoint`` is replaced atomically too.

    Args:
        runner: mmengine's runner. Call the function on all ranks.
        folder: Local folder of the checkpoint.
        name: File name of the checkpoint.
        **options: Options of ``runner.save_checkpoint``.

    Returns:
        Path of the checkpoint.

    Raises:
        OSError: See :func:`save_atomically`.
    """
    save_atomically(runner, folder, name, **options)
    path = os.path.join(folder, name)
    if is_main_process():
        with replacing(os.path.join(runner.work_dir, 'last_checkpoint')) as temporary:
            temporary.write_text(path)
    return path


def save_atomically(runner: Runner, folder: str, name: str, **options) -> None:
    """Call ``runner.save_checkpoint`` with a temporary name, sync the file to the disk, and rename it to ``name``.

    Args:
        runner: mmengine's runner. Call the function on all ranks.
        folder: Local folder of the checkpoint.
        name: File name of the checkpoint.
        **options: Options of ``runner.save_checkpoint``.

    Raises:
        OSError: If the file cannot be written, for example on a full disk. The message gives the free space and the
            last checkpoint, which is kept.
    """
    path = Path(folder, name)
    temporary = path.with_name(TEMPORARY.format(name))  # one name for all ranks, which may write parts of it
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
    """Remove a checkpoint (a file or a folder of shards) if it exists."""
    path = Path(path)
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
