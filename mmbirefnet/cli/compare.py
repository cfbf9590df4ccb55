"""``mmbirefnet compare``: several models or settings on the same images, on one HTML page."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mmbirefnet.apis.comparison import compare, parse_version
from mmbirefnet.imaging.formats import IMAGE_SUFFIXES
from mmbirefnet.imaging.read import MAX_PIXELS, has_image_signature
from mmbirefnet.imaging.sandbox import ImageDecoder
from mmbirefnet.imaging.sources import Source, is_single, list_sources
from mmbirefnet.zoo.catalog import find_checkpoint

from .options import add_foreground_argument, log_to_stderr
from .progress import ImageProgress

DECODE_SECONDS = 30


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        'words',
        nargs='+',
        metavar='MODEL|IMAGE',
        help='models (names, checkpoints or .onnx files), with settings after an @, such as BiRefNet@2048, '
        'BiRefNet@image,flip, BiRefNet@guided or BiRefNet@bfloat16; and images, folders of images or globs',
    )
    parser.add_argument('-o', '--out', type=Path, required=True, metavar='FILE', help='HTML file to write')
    parser.add_argument('--device', help='for example cpu or cuda:1 (default: a GPU if there is one)')
    add_foreground_argument(parser)
    parser.add_argument(
        '--longest',
        type=int,
        default=1024,
        metavar='N',
        help='longest side of the images on the page, in pixels (default: %(default)s)',
    )
    parser.add_argument('--overwrite', action='store_true', help='replace the file if it exists')
    parser.add_argument('--quiet', action='store_true', help='no progress bar')


def run(args: argparse.Namespace) -> int:
    images = [word for word in args.words if _is_image(word)]
    models = [word for word in args.words if word not in images]
    if not images:
        raise ValueError(
            f'{" ".join(args.words)}: no image among the arguments. Fix: name images, a folder of them, or a glob'
        )
    if not models:
        raise ValueError(f'{" ".join(args.words)}: no model among the arguments. Fix: name one, such as BiRefNet')
    if args.out.suffix.lower() not in ('.html', '.htm'):
        raise ValueError(f'-o {args.out}: must end in .html')
    for model in models:
        parse_version(model)  # report wrong settings before a model is loaded
    sources = list_sources(images)
    failures: list[str] = []

    def fail(source: Source, error: Exception) -> None:
        failures.append(f'failed: {source.name}: {str(error).removeprefix(f"{source.name}: ")}')

    with (
        ImageProgress(len(sources) * len(models), 'comparing', args.quiet) as progress,
        ImageDecoder(2, DECODE_SECONDS, max_pixels=MAX_PIXELS) as decoder,
        log_to_stderr(),
    ):
        compare(
            models,
            sources,
            args.out,
            device=args.device,
            estimate_foreground=args.estimate_foreground,
            longest=args.longest,
            decoder=decoder,
            overwrite=args.overwrite,
            on_error=fail,
            on_done=progress.advance,
        )
    print(f'{args.out}: {len(models)} versions of {len(sources)} images')
    for line in failures:
        print(line, file=sys.stderr)
    return 1 if failures else 0


def _is_image(word: str) -> bool:
    """Whether an argument names images; all others are models."""
    path = Path(word)
    if path.is_dir():
        try:
            find_checkpoint(path)
        except FileNotFoundError:
            return True
        return False
    if path.suffix.lower() in IMAGE_SUFFIXES or not is_single(word):
        return True
    return path.is_file() and has_image_signature(path)
