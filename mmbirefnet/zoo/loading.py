"""Checkpoints by name in mmengine: ``load_from='BiRefNet'``, ``tools/test.py CONFIG BiRefNet``, ``mmengine.hub``."""

import functools
from collections.abc import Callable

from mmengine import hub
from mmengine.config import Config
from mmengine.runner.checkpoint import CheckpointLoader

from mmbirefnet.fileio.checkpoint_loading import load_from_local

from .catalog import CATALOG
from .download import fetch

RELEASED = 'mmbirefnet://'
HUB_URLS = ('https://huggingface.co/', 'https://hf.co/')  # longer than those of other URLs, so they have priority


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


def load_from_released(filename: str, map_location: str | Callable | None = None) -> dict:
    """Load a released model in the format of this project, for mmengine.

    Args:
        filename: ``mmbirefnet://NAME`` with a name of the catalog.
        map_location: Ignored; the parameters are on the CPU.

    Raises:
        OSError, ImportError, ValueError: As in :func:`mmbirefnet.zoo.convert.load_birefnet`.
    """
    from .convert import load_birefnet  # needs the registries, which are set up after this module is imported

    loaded = load_birefnet(filename.removeprefix(RELEASED))
    return dict(meta=loaded.meta, state_dict=loaded.state_dict)


def register_loader() -> None:
    """Let mmengine load models by name, and its hub the parameters of released models."""
    CheckpointLoader.register_scheme('', load_from_file_or_name, force=True)
    CheckpointLoader.register_scheme(HUB_URLS, load_from_file_or_name, force=True)
    CheckpointLoader.register_scheme(RELEASED, load_from_released, force=True)
    hub.get_config = hub.hub.get_config = get_config


_get_config = hub.get_config


@functools.wraps(_get_config)
def get_config(cfg_path: str, pretrained: bool = False) -> Config:
    if not pretrained or not cfg_path.startswith('mmbirefnet::'):
        return _get_config(cfg_path, pretrained)
    name = cfg_path.partition('::')[2].removesuffix('.py')
    released = {}  # the first model of each config, as mmengine takes the first entry of a metafile
    for info in CATALOG.values():
        released.setdefault(info.config.removesuffix('.py'), info.name)
    if name not in released:
        raise ValueError(
            f'{cfg_path}: no parameters are published for this config. Fix: pretrained=False, or the config of a '
            f'released model: {", ".join(released)}'
        )
    cfg = _get_config(cfg_path)
    # The metafile has the URL of a file in the format of the reference implementation.
    cfg.model_path = RELEASED + released[name]
    return cfg
