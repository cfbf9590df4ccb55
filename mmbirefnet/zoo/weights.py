"""Find the checkpoint, or raise an error that explains how to get one."""

from __future__ import annotations

import os
from pathlib import Path

from mmbirefnet.zoo.download import fetch

CHECKPOINT_VARIABLE = 'MMBIREFNET_CHECKPOINT'
DEFAULT_MODEL = 'BiRefNet'
WHERE = (
    'no checkpoint: a config alone has no parameters. Fix: give a file or the name of a model (--checkpoint, in '
    f'Python weights=, or set {CHECKPOINT_VARIABLE}); "mmbirefnet models" lists the released ones'
)


def find_weights(weights: str | os.PathLike | None, default: str | None = DEFAULT_MODEL) -> Path:
    """Return the checkpoint to use: ``weights``, else that of the environment variable ``MMBIREFNET_CHECKPOINT``.

    Args:
        weights: A file, a folder, the name of a model, or a URL, see :func:`mmbirefnet.zoo.download.fetch`.
        default: Used if neither is given.

    Raises:
        ValueError: If no checkpoint is given and ``default`` is ``None``.
        OSError, ImportError: If the checkpoint does not exist or cannot be downloaded.
    """
    variable = os.environ.get(CHECKPOINT_VARIABLE)
    given = weights or variable or default
    if not given:
        raise ValueError(WHERE)
    try:
        return fetch(given)
    except FileNotFoundError as error:
        if weights or not variable:
            raise
        raise FileNotFoundError(f'{error} (from the environment variable {CHECKPOINT_VARIABLE})') from error
