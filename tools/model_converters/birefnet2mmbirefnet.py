"""Convert a checkpoint of the reference implementation of BiRefNet: ``birefnet2mmbirefnet.py SRC DST``."""

import argparse
import inspect
import os
import shlex
import sys
from pathlib import Path

from mmengine.config import Config

from mmbirefnet.datasets import DichotomousDataset
from mmbirefnet.fileio.checkpoints import read_state_dict, write_checkpoint
from mmbirefnet.registry import MODELS
from mmbirefnet.utils import check_fit, convert_birefnet_state_dict, infer_backbone_name, infer_model_config
from mmbirefnet.version import __version__

ROOT = Path(__file__).resolve().parents[2]
CONFIG = 'configs/birefnet/birefnet_{backbone}_8xb4-500e_dis5k-1024x1024.py'


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('src', type=Path, metavar='SRC', help='released checkpoint, .pth or .safetensors')
    parser.add_argument('dst', type=Path, metavar='DST', help='file to write, .pth')
    parser.add_argument('--overwrite', action='store_true', help='replace DST if it exists')
    return parser.parse_args(argv)


def check_target(src: Path, dst: Path, overwrite: bool) -> None:
    """Raise ``ValueError`` if ``dst`` must not be written."""
    if dst.suffix != '.pth':
        raise ValueError(f'{dst}: the converted checkpoint must be a .pth file')
    if dst.exists() and dst.samefile(src):
        raise ValueError(f'{dst}: is the file to be converted')
    if dst.exists() and not overwrite:
        raise ValueError(f'{dst}: exists already; --overwrite replaces it')


def defaults(cls: type) -> dict:
    """Default of each argument of a class, of its bases' ones too."""
    found = {}
    for base in reversed(cls.__mro__[:-1]):
        found |= {name: parameter.default for name, parameter in inspect.signature(base).parameters.items()}
    return found


def same(value: object, other: object) -> bool:
    """Whether two values of a config are equal, where a list is as good as a tuple."""
    if isinstance(value, (list, tuple)) and isinstance(other, (list, tuple)):
        return list(value) == list(other)
    return value == other


def differences(config: dict, wanted: dict, prefix: str) -> dict:
    """Options by dotted key that make ``config`` agree with ``wanted``, which may leave options out."""
    settings = {**(defaults(MODELS.get(wanted['type'])) if 'type' in wanted else {}), **config}
    options = {}
    for key, value in wanted.items():
        if isinstance(value, dict):
            options |= differences(settings.get(key) or {}, value, f'{prefix}.{key}')
        elif key not in settings or not same(settings[key], value):
            options[f'{prefix}.{key}'] = value
    return options


def as_argument(options: dict) -> str:
    """``--cfg-options`` for a shell; empty without options."""
    words = (shlex.quote(f'{key}={value}'.replace(', ', ',')) for key, value in options.items())
    return ' '.join(['--cfg-options', *words]) if options else ''


def convert(src: Path, dst: Path) -> tuple[Path, dict]:
    """Convert ``src``; return the config that fits and the options it needs besides.

    Raises:
        OSError, ImportError, ValueError: If ``src`` cannot be read, is no BiRefNet, or is one that no config fits.
    """
    try:
        state_dict = convert_birefnet_state_dict(read_state_dict(src))
        model = infer_model_config(state_dict)
        config = ROOT / CONFIG.format(backbone=infer_backbone_name(state_dict))
        cfg = Config.fromfile(config)
        options = differences(cfg.model, model, 'model')
        cfg.merge_from_dict(options)
        check_fit(state_dict, cfg.model)
    except ValueError as error:
        raise ValueError(f'{src}: {str(error).removeprefix(f"{src}: ")}') from error
    meta = dict(mmbirefnet_version=__version__, converted_from=src.name, dataset_meta=DichotomousDataset.METAINFO)
    write_checkpoint(dst, state_dict, meta)
    return config, options


def untrained(config: Path) -> dict:
    """The option by which a backbone is not loaded with pretrained parameters that are replaced at once."""
    by_timm = 'pretrained' in Config.fromfile(config).model.backbone
    return {'model.backbone.pretrained': False} if by_timm else {'model.backbone.init_cfg': None}


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    try:
        check_target(args.src, args.dst, args.overwrite)
        config, options = convert(args.src, args.dst)
    except (ImportError, OSError, ValueError) as error:
        sys.exit(f'error: {error}')
    train, test, config = (os.path.relpath(path) for path in (ROOT / 'tools/train.py', ROOT / 'tools/test.py', config))
    dst = shlex.quote(str(args.dst))
    fine_tuning = as_argument({'load_from': args.dst} | untrained(config) | options)
    print(f'wrote {dst}, which fits {config} {as_argument(options)}'.rstrip())
    print(f'test:      python {test} {config} {dst} {as_argument(options)}'.rstrip())
    print(f'fine-tune: python {train} {config} {fine_tuning}')


if __name__ == '__main__':
    main()
