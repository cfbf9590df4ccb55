"""``mmbirefnet convert``: runs ``tools/model_converters/birefnet2mmbirefnet.py``."""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path

from .options import add_crop_order_argument

TOOL = 'tools/model_converters/birefnet2mmbirefnet.py'
PACKAGE = Path(__file__).resolve().parents[1]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('src', metavar='SRC', help='name of a released model, Hugging Face id, URL, file or folder')
    parser.add_argument(
        'dst', metavar='DST', help='.pth file to write; with --to reference also .safetensors or a folder'
    )
    parser.add_argument(
        '--to',
        choices=('mmbirefnet', 'reference'),
        default='mmbirefnet',
        help='format to write: that of this project, or of the reference implementation (default: %(default)s)',
    )
    parser.add_argument(
        '--push-to-hub',
        metavar='USER/NAME',
        help='with --to reference: upload the folder DST to this repository on Hugging Face, created if needed',
    )
    parser.add_argument(
        '--adapters',
        metavar='FILE',
        help='merge low-rank adapters (adapters.safetensors of finetune) into SRC, the model that they were trained on',
    )
    add_crop_order_argument(parser)
    parser.add_argument('--overwrite', action='store_true', help='replace DST if it exists')


def run(args: argparse.Namespace) -> int:
    # The tools are in the package if it is installed, and next to it in a clone.
    path = next(folder / TOOL for folder in (PACKAGE / '.mim', PACKAGE.parent) if (folder / TOOL).is_file())
    spec = importlib.util.spec_from_file_location(path.stem, path)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    tool.run(args)
    return 0
