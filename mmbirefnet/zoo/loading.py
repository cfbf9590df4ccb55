"""Checkpoints by name in mmengine: ``load_from='BiRefNet'``, ``tools/test.py CONFIG BiRefNet``, ``mmengine.hub``."""

import functools
from collections.abc import Callable

from mmengine import hub
from mmengine.config import Config
from mmengine.runner.checkpoint import CheckpointLoader

from mmbirefnet.fileio.checkpoint_loading import load_from_local

from .catalog import CATALOG
from .download import fetch


# mmengine logs `loader.__name__[10:]`, so the name starts with `load_from_`.
def load_from_file_or_name(filename: str, map_location: str | Callable | None = None) -> dict:
    """Load a checkpoint from a file or by the name of a model, for mmengine.

    Args:
        filename: See :func:`mmbirefnet.zoo.download.fetch`; mmengine passes URLs to another loader.
        map_location: See ``torch.load``.

    Raises:
        OSError, ImportError, ValueError: As in :func:`~mmbirefnet.zoo.download.fetch` and
            :func:`mmbirefnet.fileio.checkpoint_loading.load_from_local`.
    """
    return load_from_local(str(fetch(filename)), map_location)


def register_loader() -> None:
    """Let mmengine load models by name, and let errors of its hub list configs with published parameters."""
    CheckpointLoader.register_scheme('', load_from_file_or_name, force=True)
    hub.get_config = hub.hub.get_config = get_config


_get_config = hub.get_config


@functools.wraps(_get_config)
def get_config(cfg_path: str, pretrained: bool = False) -> Config:
    if not pretrained or not cfg_path.startswith('mmbirefnet::'):
        return _get_config(cfg_path, pretrained)
    try:
        cfg = _get_config(cfg_path, pretrained)
    except AssertionError:  # an entry of the metafile has no Weights
        cfg = {}
    if 'model_path' not in cfg:
        released = ', '.join(dict.fromkeys(info.config.removesuffix('.py') for info in CATALOG.values()))
        raise ValueError(
            f'{cfg_path}: no parameters are published for this config. Fix: pretrained=False, or the config of a '
            f'released model: {released}'
        )
    return cfg
