"""Checkpoints by name in mmengine: ``load_from='BiRefNet'``, ``tools/test.py CONFIG BiRefNet``, ``mmengine.hub``."""

import functools
from collections.abc import Callable

from mmengine import hub
from mmengine.config import Config
from mmengine.runner.checkpoint import CheckpointLoader

from mmbirefnet.fileio.checkpoint_loading import load_from_local

from .catalog import CATALOG
from .download import fetch


# mmengine logs the name from the tenth character on.
def load_from_file_or_name(filename: str, map_location: str | Callable | None = None) -> dict:
    """A checkpoint of a file or of the name of a model, as mmengine loads it.

    Args:
        filename: See :func:`mmbirefnet.zoo.download.fetch`; mmengine gives URLs to another loader.
        map_location: See ``torch.load``.

    Raises:
        OSError, ImportError, ValueError: See :func:`~mmbirefnet.zoo.download.fetch` and
            :func:`mmbirefnet.fileio.checkpoint_loading.load_from_local`.
    """
    return load_from_local(str(fetch(filename)), map_location)


def register_loader() -> None:
    """Make mmengine load models by name, and its hub name the configs that have published parameters."""
    CheckpointLoader.register_scheme('', load_from_file_or_name, force=True)
    hub.get_config = hub.hub.get_config = get_config


_get_config = hub.get_config


@functools.wraps(_get_config)
def get_config(cfg_path: str, pretrained: bool = False) -> Config:
    if not pretrained or not cfg_path.startswith('mmbirefnet::'):
        return _get_config(cfg_path, pretrained)
    try:
        cfg = _get_config(cfg_path, pretrained)
    except AssertionError:  # an entry of the metafile without Weights
        cfg = {}
    if 'model_path' not in cfg:
        released = ', '.join(dict.fromkeys(info.config.removesuffix('.py') for info in CATALOG.values()))
        raise ValueError(
            f'{cfg_path}: no parameters are published for this config. Fix: pretrained=False, or the config of a '
            f'released model: {released}'
        )
    return cfg
