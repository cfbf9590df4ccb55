"""Reading configs and the options that change them, with errors that name the file or the option."""

import inspect
import os
from collections.abc import Mapping
from difflib import get_close_matches

from mmengine.config import Config
from mmengine.runner import FlexibleRunner, Runner

# What the runners and the tools read of a config besides the runners' arguments.
_FURTHER = (
    'activation_checkpointing',
    'compile',
    'data_root',
    'detect_anomalous_params',
    'efficient_conv_bn_eval',
    'find_unused_parameters',
    'model_wrapper_cfg',
    'runner_type',
    'sync_bn',
    'tta_model',
    'tta_pipeline',
)


def read_config(path: str | os.PathLike) -> Config:
    """Read a config; it is a program, which is run.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it, or one that it is based on, cannot be read.
    """
    try:
        return Config.fromfile(path)
    except FileNotFoundError as error:
        if os.path.exists(path):
            raise ValueError(f'{path}: {error} (one that it is based on)') from error
        raise FileNotFoundError(f'{path}: no such config') from error
    except Exception as error:  # whatever a program may raise
        raise ValueError(f'{path}: {type(error).__name__}: {error}') from error


def check_options(cfg: Config, options: Mapping[str, object]) -> None:
    """Make sure that options, by dotted key, change what is read of a config.

    Raises:
        ValueError: If a setting of that name is not read by anything, or was used up when the config was read.
    """
    known = {*_FURTHER, *inspect.signature(Runner).parameters, *inspect.signature(FlexibleRunner).parameters}
    for option in options:
        name, *_ = option.split('.')
        if name in known:
            continue
        if name in cfg:
            raise ValueError(
                f'{option}: {name} is a variable of the config, which was used when it was read; change what it goes '
                'into, such as train_dataloader.dataset.pipeline, or write a config that is based on it'
            )
        close = get_close_matches(name, known)
        raise ValueError(f'{option}: there is no setting {name}{"; is it " + " or ".join(close) if close else ""}')
