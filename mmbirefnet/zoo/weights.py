"""Finding the checkpoint, and what to say where there is none."""

from __future__ import annotations

import os
from pathlib import Path

from mmbirefnet.zoo.catalog import find_checkpoint

CHECKPOINT_VARIABLE = 'MMBIREFNET_CHECKPOINT'
RELEASES = 'https://github.com/ZhengPeng7/BiRefNet/releases and https://huggingface.co/ZhengPeng7'
WHERE = (
    f'no checkpoint: pass one (--checkpoint FILE, in Python weights=FILE, or set {CHECKPOINT_VARIABLE}); those '
    f'released at {RELEASES} are converted when they are loaded'
)


def find_weights(weights: str | os.PathLike | None) -> Path:
    """The checkpoint to use: the one given, or that of the environment variable ``MMBIREFNET_CHECKPOINT``.

    Args:
        weights: A file, or a folder that was downloaded from Hugging Face.

    Raises:
        ValueError: There is neither.
        FileNotFoundError: It does not exist.
    """
    given = weights or os.environ.get(CHECKPOINT_VARIABLE)
    if not given:
        raise ValueError(WHERE)
    given = find_checkpoint(given)
    if not given.is_file():
        origin = 'checkpoint' if weights else f'checkpoint named by {CHECKPOINT_VARIABLE}'
        raise FileNotFoundError(f'{given}: no such file ({origin})')
    return given
