"""``mmbirefnet models``: list and download the released models."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from mmbirefnet.zoo.catalog import get_info, list_models, suggest
from mmbirefnet.zoo.download import fetch, find_cached

DOWNLOAD = 'download'
WIDTH = 200  # width of the table if the output is not a terminal; wide enough not to truncate lines
MIN_WIDTH = 80  # smallest width of the table; a narrower terminal breaks its lines instead of losing columns


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = '%(prog)s [PATTERN]\n       %(prog)s download MODEL …'
    parser.add_argument(
        'words',
        nargs='*',
        metavar='PATTERN | download MODEL',
        help="models to list: part of a name or a shell pattern, such as 'lite' or '*matting*'; or the word download, "
        'followed by the names, Hugging Face ids or URLs of the models to download',
    )


def run(args: argparse.Namespace) -> int:
    if args.words[:1] == [DOWNLOAD]:
        return _download(args.words[1:])
    if len(args.words) > 1:
        raise ValueError(
            f'models {" ".join(args.words)}: expected one PATTERN, or download followed by names of models'
        )
    pattern = args.words[0] if args.words else None
    names = list_models(pattern)
    if not names:
        raise ValueError(f'{pattern}: no released model matches; {suggest(pattern)}')
    _print_table(names)
    return 0


def _download(names: list[str]) -> int:
    if not names:
        raise ValueError(
            'models download: no model given. Fix: name one or more of those that "mmbirefnet models" lists'
        )
    failed = False
    for name in names:
        try:
            print(fetch(name))
        except (OSError, ValueError) as error:
            failed = True
            print(f'failed: {error}', file=sys.stderr)
    return int(failed)


def _print_table(names: list[str]) -> None:
    table = Table(box=SIMPLE, pad_edge=False, show_edge=False, collapse_padding=True)
    for title in ('name', 'task', 'size', 'backbone', 'license of the weights', 'cached'):
        table.add_column(title, no_wrap=' ' not in title)
    missing = False
    for info in map(get_info, names):
        try:
            cached = _megabytes(find_cached(info))
        except ImportError:
            cached, missing = '?', True
        license = f'{info.licence.weights}, non-commercial' if info.non_commercial else info.licence.weights
        table.add_row(info.name, info.task, info.size, info.backbone, license, cached)
    console = Console()
    console.width = max(console.width, MIN_WIDTH) if console.is_terminal else WIDTH
    console.print(table)
    print('The terms of the training data may exclude commercial use even where the license of the weights allows it:')
    print('in Python, mmbirefnet.zoo.get_info(NAME).licence has the license of the code, the weights and the data.')
    if missing:
        print(
            'The last column is unknown without the package huggingface_hub, which downloads the models. '
            "Fix: pip install 'mmbirefnet[hub]'",
            file=sys.stderr,
        )


def _megabytes(path: Path | None) -> str:
    return 'no' if path is None else f'{path.stat().st_size / 1e6:.0f} MB'
