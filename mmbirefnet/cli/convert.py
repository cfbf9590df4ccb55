"""``mmbirefnet convert``: the converter of released checkpoints, ``tools/model_converters/birefnet2mmbirefnet.py``."""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path

TOOL = 'tools/model_converters/birefnet2mmbirefnet.py'
PACKAGE = Path(__file__).resolve().parents[1]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('src', metavar='SRC', help='released checkpoint, .pth or .safetensors')
    parser.add_argument('dst', metavar='DST', help='file to write, .pth')
    parser.add_argument('--overwrite', action='store_true', help='replace DST if it exists')


def run(args: argparse.Namespace) -> int:
    # Installed, the tools lie in the package, in a clone beside it.
    path = next(folder / TOOL for folder in (PACKAGE / '.mim', PACKAGE.parent) if (folder / TOOL).is_file())
    spec = importlib.util.spec_from_file_location(path.stem, path)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    tool.main([args.src, args.dst, *(['--overwrite'] if args.overwrite else [])])
    return 0
