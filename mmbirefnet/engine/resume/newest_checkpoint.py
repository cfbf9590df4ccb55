"""The checkpoint to resume from."""

from __future__ import annotations

import logging
import os
import zipfile
from pathlib import Path

from mmengine.logging import print_log

from mmbirefnet.fileio.restricted_unpickling import load_guarded

_NEEDED = {'meta', 'message_hub', 'optimizer', 'state_dict'}


def is_training_checkpoint(path: str | os.PathLike) -> bool:
    """Whether a file is a whole checkpoint of a training, which can be resumed, rather than parameters alone."""
    try:
        return _meta_of(Path(path)) is not None
    except Exception:  # of another format, or no file
        return False


def newest_checkpoint(*folders: str | os.PathLike) -> str | None:
    """The checkpoint of work directories that was saved last and is whole.

    Files without an optimizer's state (the best ones, published ones) are passed over. Damaged ones are too, each with
    a warning. The order is that of the times that the checkpoints tell, so that a copied folder will do.

    Returns:
        Its path; None if there is no checkpoint.

    Raises:
        ValueError: If there are damaged ones only.
    """
    found, damaged = [], []
    for path in sorted(path for folder in folders for path in Path(folder).glob('*.pth')):
        try:
            meta = _meta_of(path)
        except Exception as error:  # torch raises half a dozen types for damaged files
            damaged.append(path)
            _warn(path, error)
            continue
        if meta is not None:
            found.append((meta.get('time', ''), meta.get('iter', 0), path))
    for *_, path in sorted(found, reverse=True):
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()  # compares the checksums of all parts
        if broken is None:
            return str(path)
        damaged.append(path)
        _warn(path, f'checksum of {broken}')
    if damaged:
        raise ValueError(
            f'all checkpoints to resume from are damaged: {", ".join(map(str, damaged))}; '
            'move them away to train from the start'
        )
    return None


def _meta_of(path: Path) -> dict | None:
    """The ``meta`` of a training's checkpoint, without reading its tensors; None if it is none.

    Raises:
        ValueError: If it does not say where the training was.
        Exception: See :func:`~mmbirefnet.fileio.restricted_unpickling.load_guarded`.
    """
    content = load_guarded(path, 'cpu', mmap=True)
    if not isinstance(content, dict) or not content.keys() >= _NEEDED:
        return None
    meta, hub = content['meta'], content['message_hub']
    kinds = dict(epoch=int, iter=int, time=str)
    if not isinstance(meta, dict) or not all(isinstance(meta.get(key, kind()), kind) for key, kind in kinds.items()):
        raise ValueError('its meta does not say where the training was')
    if not isinstance(hub, dict) or not isinstance(content['state_dict'], dict):
        raise ValueError('its message_hub or state_dict is no dict')
    return meta


def _warn(path: Path, error: object) -> None:
    reason = f'{error}'.partition('\n')[0] or type(error).__name__
    print_log(f'{path}: truncated or damaged, not resumed from ({reason})', 'current', logging.WARNING)
