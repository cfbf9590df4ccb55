"""Read configs and the options that change them, with errors that name the file or the option."""

import argparse
import inspect
import os
from collections.abc import Mapping
from difflib import get_close_matches

from mmengine.config import Config

# Keys of a config that runners and tools read, besides the arguments of the runners.
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
# Settings that are one path: a comma in them does not create a list, and digits are not a number.
_PATHS = ('data_root', 'load_from', 'work_dir', 'ann_file', 'init_cfg.checkpoint', 'output_dir', 'out_dir', 'save_dir')
_PAIRS = {'[': ']', '(': ')', '{': '}', '"': '"', "'": "'"}
_QUOTES = ('"', "'")
_WORDS = {'true': True, 'false': False}


class ConfigOptions(argparse.Action):
    """Parse ``--cfg-options KEY=VALUE …`` to a dict, like mmengine's ``DictAction``, but keep paths as typed.

    mmengine removes blanks and quotes from every value and splits it at each comma, which breaks paths. Here:

    - ``1``, ``0.5``, ``true`` and ``None`` are a number, a bool and ``None``.
    - ``[a, b]``, ``(1, 2)`` and ``{'a': 1}`` are a list, a tuple and a dict, which may be nested and contain quoted
      text.
    - ``a,b`` is a list, too, unless one of its parts contains a slash or a blank.
    - ``'text'`` and ``"text"`` are text without the quotes.
    - Everything else is text, and so are the values of settings that are one path, such as ``data_root``.
    """

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        options = dict(getattr(namespace, self.dest, None) or {})
        for word in values:
            key, equals, value = word.partition('=')
            if not (key and equals):
                parser.error(f'{option_string}: expected KEY=VALUE, found {word!r}. Fix: put quotes around blanks')
            try:
                options[key] = parse_value(value, is_path=f'.{key}'.endswith(tuple(f'.{name}' for name in _PATHS)))
            except RecursionError:
                parser.error(f'{option_string}: {key} is nested too deeply')
        setattr(namespace, self.dest, options)


def parse_value(text: str, is_path: bool = False) -> object:
    """Parse a value on the command line, see :class:`ConfigOptions`.

    Args:
        text: Text after ``=``.
        is_path: Whether it is a path, in which only quotes and ``None`` are special.
    """
    word = text.strip()
    opening, depths = word[:1], _depths(word)
    enclosed = opening in _PAIRS and depths[-1] == 0 and 0 not in depths[:-1]
    if enclosed and opening in _QUOTES:
        return word[1:-1]
    if word == 'None' or is_path:
        return None if word == 'None' else text
    if enclosed and opening == '{':
        items = [part.partition(':') for part in _split(word[1:-1])]
        is_dict = all(colon for _, colon, _ in items)
        return {parse_value(key): parse_value(value) for key, _, value in items} if is_dict else text
    if enclosed:
        return (tuple if opening == '(' else list)(map(parse_value, _split(word[1:-1])))
    parts = _split(word)
    if ',' in word and (len(parts) > 1 or word.endswith(',')) and depths[-1] == 0:
        return text if any(' ' in part or '/' in part for part in parts) else list(map(parse_value, parts))
    if word.lower() in _WORDS:
        return _WORDS[word.lower()]
    for kind in (int, float):
        try:
            return kind(word)
        except ValueError:
            pass
    return text


def _depths(text: str) -> list[int]:
    """Number of open brackets and quotes after each character; a quote inside a word is an apostrophe."""
    depths, closing, previous = [], [], ','
    for char in text:
        quoted = closing and closing[-1] in _QUOTES
        if closing and char == closing[-1]:
            closing.pop()
        elif not quoted and char in _PAIRS and (char not in _QUOTES or previous in ',:[({'):
            closing.append(_PAIRS[char])
        previous = previous if char == ' ' else char
        depths.append(len(closing))
    return depths


def _split(text: str) -> list[str]:
    """Split at commas outside brackets and quotes; a trailing comma ends the last part."""
    commas = [i for i, depth in enumerate(_depths(text)) if depth == 0 and text[i] == ',']
    parts = [text[start + 1 : end].strip() for start, end in zip([-1, *commas], [*commas, len(text)])]
    return parts[:-1] if parts[-1] == '' else parts


def read_config(path: str | os.PathLike) -> Config:
    """Read a config in Python, which is executed.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If it is not a Python file, or if the config or one of its base configs cannot be read.
    """
    if not os.path.exists(path):
        raise FileNotFoundError(f'{path}: no such config')
    if os.path.splitext(path)[1] != '.py':
        # mmengine reads YAML with a loader that can create any object, and follows `_base_` in JSON to Python files.
        raise ValueError(f'{path}: a config must be a Python file (.py); YAML and JSON configs could run code too')
    try:
        return Config.fromfile(path)
    except FileNotFoundError as error:
        raise ValueError(f'{path}: {error} (a base config)') from error
    except Exception as error:  # a config can raise any exception
        raise ValueError(f'{path}: {type(error).__name__}: {error}') from error


def check_options(cfg: Config, options: Mapping[str, object]) -> None:
    """Check that options, by dotted key, have an effect on a config.

    Raises:
        ValueError: If nothing reads a setting of that name, or it was only used while the config was read.
    """
    from mmengine.runner import FlexibleRunner, Runner  # slow to import, and not needed for inference

    known = {*_FURTHER, *inspect.signature(Runner).parameters, *inspect.signature(FlexibleRunner).parameters}
    for option in options:
        name, *_ = option.split('.')
        if name in known:
            continue
        if name in cfg:
            raise ValueError(
                f'{option}: {name} is a variable that only the config itself uses while it is read. Fix: change the '
                'setting that it is used for, such as train_dataloader.dataset.pipeline, or write a config based on it'
            )
        close = get_close_matches(name, known)
        raise ValueError(f'{option}: there is no setting {name}{"; is it " + " or ".join(close) if close else ""}')
