"""Convert a checkpoint between the reference implementation of BiRefNet and this project."""

import argparse
import inspect
import os
import re
import shlex
import sys
from pathlib import Path

os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')  # see docs/en/notes/performance.md; read when torch is imported

from mmengine.config import Config

from mmbirefnet.cli.convert import add_arguments
from mmbirefnet.datasets import DichotomousDataset
from mmbirefnet.fileio.checkpoints import write_checkpoint
from mmbirefnet.registry import MODELS
from mmbirefnet.utils import check_fit, infer_backbone_name, infer_model_config
from mmbirefnet.version import __version__
from mmbirefnet.zoo.catalog import FINETUNE_CONFIGS, get_info
from mmbirefnet.zoo.convert import load_birefnet
from mmbirefnet.zoo.push import check_repository, push_to_hub
from mmbirefnet.zoo.to_reference import with_adapters, write_reference

ROOT = Path(__file__).resolve().parents[2]
CONFIG = 'birefnet/birefnet_{backbone}_8xb4-500e_dis5k-1024x1024.py'


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    return parser.parse_args(argv)


def check_replacing(src: str, dst: Path, overwrite: bool) -> None:
    """Raise ``ValueError`` if ``dst`` exists and must not be replaced."""
    if not dst.exists() or (dst.is_dir() and not any(dst.iterdir())):
        return
    if Path(src).exists() and dst.samefile(src):
        raise ValueError(f'{dst}: is also the file to convert. Fix: choose another DST')
    if not overwrite:
        raise ValueError(f'{dst}: already exists. Fix: --overwrite replaces it')


def check_target(src: str, dst: Path, overwrite: bool) -> None:
    """Raise ``ValueError`` if ``dst`` must not be written."""
    if dst.suffix != '.pth':
        raise ValueError(f'{dst}: the converted checkpoint must be a .pth file')
    check_replacing(src, dst, overwrite)


def defaults(cls: type) -> dict:
    """Default of each argument of a class, including those of its bases."""
    found = {}
    for base in reversed(cls.__mro__[:-1]):
        found |= {name: parameter.default for name, parameter in inspect.signature(base).parameters.items()}
    return found


def same(value: object, other: object) -> bool:
    """Whether two values of a config are equal; a list equals a tuple with the same items."""
    if isinstance(value, (list, tuple)) and isinstance(other, (list, tuple)):
        return list(value) == list(other)
    return value == other


def differences(config: dict, wanted: dict, prefix: str) -> dict:
    """Options, by dotted key, that give ``config`` the values in ``wanted``; other values stay as they are."""
    settings = {**(defaults(MODELS.get(wanted['type'])) if 'type' in wanted else {}), **config}
    options = {}
    for key, value in wanted.items():
        if isinstance(value, dict) and isinstance(settings.get(key), str):  # for example, the name of an architecture
            options |= {f'{prefix}.{key}._delete_': True} | differences({}, value, f'{prefix}.{key}')
        elif isinstance(value, dict):
            options |= differences(settings.get(key) or {}, value, f'{prefix}.{key}')
        elif key not in settings or not same(settings[key], value):
            options[f'{prefix}.{key}'] = value
    return options


def as_argument(options: dict) -> str:
    """Format ``--cfg-options`` for a shell; an empty string if there are no options."""
    words = (shlex.quote(f'{key}={value}'.replace(', ', ',')) for key, value in options.items())
    return ' '.join(['--cfg-options', *words]) if options else ''


def config_of(model_name: str | None, backbone: str) -> Path:
    """The config of the released model if it has this backbone, otherwise the DIS5K config of the backbone."""
    if model_name is not None and (info := get_info(model_name)).backbone == backbone:
        return ROOT / 'configs' / info.config
    return ROOT / 'configs' / CONFIG.format(backbone=backbone)


def convert(src: str | os.PathLike, dst: Path, crop_order: str = 'auto') -> tuple[Path, dict, dict]:
    """Convert ``src`` to the format of this project.

    Returns:
        The matching config, the options that it needs in addition, and the metadata of the checkpoint.

    Raises:
        OSError, ImportError, ValueError: If ``src`` cannot be read, is not a BiRefNet, or does not fit any config.
    """
    try:
        loaded = load_birefnet(src, crop_order, hash_file=True)
        state_dict = loaded.state_dict
        if not loaded.converted:
            raise ValueError(
                'is already a checkpoint of mmbirefnet (it contains decode_head.blocks…). Fix: use it without '
                'conversion, or convert it to the format of the reference implementation with --to reference'
            )
        model = infer_model_config(state_dict)
        config = config_of(loaded.meta.get('model_name'), infer_backbone_name(state_dict))
        cfg = Config.fromfile(config)
        options = differences(cfg.model, model, 'model')
        cfg.merge_from_dict(options)
        check_fit(state_dict, cfg.model)
    except ValueError as error:
        raise ValueError(f'{src}: {str(error).removeprefix(f"{src}: ")}') from error
    meta = dict(
        loaded.meta,
        mmbirefnet_version=__version__,
        converted_from=Path(src).name,
        dataset_meta=DichotomousDataset.METAINFO,
    )
    write_checkpoint(dst, state_dict, meta)
    return config, options, meta


def merge(src: str, dst: Path, adapters: str, crop_order: str = 'auto') -> None:
    """Merge low-rank adapters into a model of either format, and write it in the format of this project.

    Raises:
        OSError, ImportError, ValueError: If a file cannot be read, or the adapters were trained on another model.
    """
    loaded = with_adapters(load_birefnet(src, crop_order), adapters)
    meta = {key: value for key, value in loaded.meta.items() if key in ('input_size', 'dataset_meta')}
    meta = dict(dataset_meta=DichotomousDataset.METAINFO) | meta
    write_checkpoint(dst, loaded.state_dict, dict(meta, mmbirefnet_version=__version__, finetuned_from=Path(src).name))


def untrained(config: Path) -> dict:
    """Option that skips the pretrained weights of the backbone, which the checkpoint would overwrite."""
    backbone = Config.fromfile(config).model.backbone
    if 'pretrained' in backbone:  # for backbones of timm
        return {'model.backbone.pretrained': False}
    return {'model.backbone.init_cfg': None} if backbone.get('init_cfg', True) else {}


def fine_tuning(dst: Path, config: Path, options: dict, meta: dict) -> tuple[Path, dict]:
    """Config and options to fine-tune a converted checkpoint, given its matching config and options."""
    backbone = re.match(r'birefnet_(.+?)_', config.name)[1]
    if backbone not in FINETUNE_CONFIGS:
        return config, {'load_from': dst} | untrained(config) | options
    released = get_info(meta['model_name']) if 'model_name' in meta else None
    if released is not None and released.backbone == backbone:
        config = ROOT / 'configs' / released.finetune_config
    else:
        config = ROOT / 'configs' / FINETUNE_CONFIGS[backbone]
    options = {key: value for key, value in options.items() if not key.startswith('model.neck.aux_classifier')}
    return config, {'data_root': 'DIR', 'load_from': dst} | untrained(config) | options


def report(dst: Path, config: Path, options: dict, meta: dict) -> None:
    """Print the model, and the commands that test and fine-tune it."""
    train, test = (os.path.relpath(ROOT / 'tools' / name) for name in ('train.py', 'test.py'))
    if 'model_name' in meta:
        info = get_info(meta['model_name'])
        print(f'model:     {info.name} ({info.task}), trained at {info.size}, weights under {info.licence.weights}')
    print(f'crops:     stacked by {meta["crop_order"]}')
    quoted = shlex.quote(str(dst))
    used = as_argument(options)
    print(f'wrote {quoted}; its config is {os.path.relpath(config)} {used}'.rstrip())
    print(f'test:      python {test} {os.path.relpath(config)} {quoted} {used}'.rstrip())
    config, options = fine_tuning(dst, config, options, meta)
    print(f'fine-tune: python {train} {os.path.relpath(config)} {as_argument(options)}')


def run(args: argparse.Namespace) -> None:
    """Convert according to the command line.

    Raises:
        OSError, ImportError, ValueError: As in :func:`convert` and :func:`mmbirefnet.zoo.to_reference.write_reference`.
    """
    src, dst = args.src, Path(args.dst)
    if args.push_to_hub:
        check_repository(args.push_to_hub)
        if args.to != 'reference' or dst.suffix:
            raise ValueError('--push-to-hub uploads a folder: it needs --to reference, and a DST without a suffix')
    if args.to == 'reference':
        check_replacing(src, dst, args.overwrite)
        for path in write_reference(src, dst, args.crop_order, args.adapters):
            print(f'wrote {path}')
        if args.push_to_hub:
            print(f'uploaded {push_to_hub(dst, args.push_to_hub)}')
        return
    check_target(src, dst, args.overwrite)
    if args.adapters is not None:
        merge(src, dst, args.adapters, args.crop_order)
        print(f'wrote {shlex.quote(str(dst))}: {src} with {args.adapters}')
        return
    report(dst, *convert(src, dst, args.crop_order))


def main(argv: list[str] | None = None) -> None:
    try:
        run(parse_args(argv))
    except (ImportError, OSError, ValueError) as error:
        sys.exit(f'error: {error}')


if __name__ == '__main__':
    main()
