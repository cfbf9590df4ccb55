"""Command-line options that several commands share: model, prediction and output."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import gc
import os
import sys
from collections.abc import Iterator

from mmbirefnet.apis.inferencer import BiRefNetInferencer
from mmbirefnet.imaging.compose import FORMER_OUTPUT, OUTPUTS
from mmbirefnet.imaging.refine import METHODS
from mmbirefnet.imaging.settings import Settings, parse_size
from mmbirefnet.zoo.weights import CHECKPOINT_VARIABLE, DEFAULT_MODEL


def add_model_arguments(parser: argparse.ArgumentParser, several: bool = False) -> None:
    """Add the options of :func:`inferencer_of`.

    Args:
        parser: Parser of the sub-command.
        several: Whether ``--checkpoint`` may be repeated and give its model a name.
    """
    group = parser.add_argument_group('model')
    group.add_argument(
        '--config',
        help='config file, or the name of a config of this project; not needed if the checkpoint has the architecture '
        'of a released model',
    )
    group.add_argument(
        '--checkpoint',
        action='append' if several else 'store',
        metavar='[NAME=]MODEL' if several else 'MODEL',
        help='name of a released model (see mmbirefnet models), Hugging Face id USER/REPO[@REVISION][:FILE], URL, '
        f'file (.onnx too) or folder (default: ${CHECKPOINT_VARIABLE}, or {DEFAULT_MODEL})'
        + ('; repeat it for several models, the first is the default' if several else ''),
    )
    add_crop_order_argument(group)
    group.add_argument('--device', help='for example cpu or cuda:1 (default: a GPU if there is one)')
    group.add_argument(
        '--dtype',
        choices=('float32', 'bfloat16', 'float16', 'auto'),
        default='float32',
        help='floating-point type; auto is bfloat16 on a CPU with AVX512-BF16 or AMX, and float32 elsewhere '
        '(default: %(default)s)',
    )
    group.add_argument(
        '--threads',
        type=int,
        metavar='N',
        help='number of CPU threads (default: $OMP_NUM_THREADS, or one per core)',
    )
    group.add_argument('--no-fuse', action='store_true', help='do not fuse layers for inference')


def add_crop_order_argument(parser) -> None:
    parser.add_argument(
        '--crop-order',
        choices=('auto', 'rows', 'columns'),
        default='auto',
        help='order of the image crops that a released checkpoint was trained with; auto detects it from the weights '
        '(default: %(default)s)',
    )


def add_settings_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of :func:`settings_of`."""
    group = parser.add_argument_group('prediction')
    default = Settings()
    group.add_argument(
        '--size',
        type=_size,
        metavar='N|HxW|image',
        help='input size of the model, in multiples of 32; image: the size of the image, rounded '
        '(default: the size that the model was trained at)',
    )
    group.add_argument(
        '--max-size',
        type=int,
        metavar='N',
        default=default.max_size,
        help='longest side of the model input with --size image, in pixels (default: %(default)s)',
    )
    group.add_argument(
        '--batch-size',
        type=int,
        metavar='N',
        default=default.batch_size,
        help='images per batch (default: %(default)s)',
    )
    group.add_argument(
        '--tile',
        type=int,
        metavar='N',
        help='predict images with a side above N pixels at their original size (or at --size), in overlapping tiles',
    )
    group.add_argument(
        '--tile-overlap',
        type=int,
        metavar='N',
        help='overlap of neighboring tiles in pixels (default: a quarter of --tile)',
    )
    group.add_argument(
        '--two-pass',
        action='store_true',
        help='for small objects: locate the object, then predict it again in a crop with --margin around it',
    )
    group.add_argument('--flip', action='store_true', help='average with the prediction of the mirrored image')
    group.add_argument(
        '--scales',
        type=float,
        nargs='+',
        metavar='F',
        default=default.scales,
        help='average the predictions at these factors of the input size, for example 0.75 1 1.25',
    )
    group.add_argument(
        '--box',
        type=float,
        nargs=4,
        metavar=('LEFT', 'TOP', 'RIGHT', 'BOTTOM'),
        help='segment only in this box, in pixels',
    )
    group.add_argument(
        '--margin',
        type=float,
        default=default.margin,
        metavar='F',
        help='context around --box, and around the object in the second pass of --two-pass, as a fraction of the sides '
        'of the box (default: %(default)s)',
    )
    group.add_argument(
        '--refine',
        choices=METHODS,
        help='refine uncertain edges with the colors of the image: guided filter, or closed-form matting (much slower, '
        'and needs much more memory)',
    )
    group.add_argument(
        '--threshold', type=float, metavar='P', help='make the mask binary: 1 where the probability exceeds P'
    )
    group.add_argument(
        '--min-area',
        type=float,
        default=default.min_area,
        metavar='A',
        help='remove components smaller than A pixels; an A below 1 is a fraction of the image',
    )
    group.add_argument(
        '--levels',
        type=float,
        nargs=2,
        metavar=('LOW', 'HIGH'),
        help='stretch the mask: values up to LOW become 0, values from HIGH become 1; 0.04 0.96 removes haze',
    )
    group.add_argument('--largest', action='store_true', help='keep only the largest component')
    group.add_argument('--fill-holes', action='store_true', help='fill holes in objects')
    group.add_argument(
        '--grow', type=int, default=default.grow, metavar='N', help='grow the object by N pixels; -N shrinks it'
    )
    group.add_argument(
        '--feather',
        type=float,
        default=default.feather,
        metavar='SIGMA',
        help='blur the edge with a Gaussian, SIGMA in pixels',
    )
    group.add_argument('--invert', action='store_true', help='swap object and background')


def add_output_argument(parser, help: str, **options) -> None:
    """Add ``--save``, which also accepts the former name of ``composite``."""
    choices = (*OUTPUTS, FORMER_OUTPUT)
    parser.add_argument('--save', choices=choices, metavar=f'{{{",".join(OUTPUTS)}}}', help=help, **options)


def add_foreground_argument(parser) -> None:
    """Add ``--estimate-foreground``, and its former name, which ``--help`` does not list."""
    options = dict(dest='estimate_foreground', action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument(
        '--estimate-foreground',
        help="estimate the object's own colors at the edges, to remove the fringe of the old background",
        **options,
    )
    parser.add_argument('--foreground', help=argparse.SUPPRESS, **options)


def set_threads(args: argparse.Namespace) -> None:
    """Apply ``--threads``.

    Raises:
        ValueError: If the number is less than 1.
    """
    if args.threads is not None:
        if args.threads < 1:
            raise ValueError(f'--threads {args.threads}: must be 1 or more')
        os.environ['OMP_NUM_THREADS'] = str(args.threads)  # read when torch is imported, later


def inferencer_of(args: argparse.Namespace) -> BiRefNetInferencer:
    set_threads(args)
    with log_to_stderr(), without_garbage_collection():
        return BiRefNetInferencer(
            args.config, args.checkpoint, args.device, args.dtype, not args.no_fuse, crop_order=args.crop_order
        )


@contextlib.contextmanager
def log_to_stderr() -> Iterator[None]:
    """Make mmengine's logger write to stderr: it is created with the first model, and keeps its stream."""
    with contextlib.redirect_stdout(sys.stderr):
        yield


@contextlib.contextmanager
def without_garbage_collection() -> Iterator[None]:
    """Disable garbage collection in the block, which imports packages and loads models.

    Collections there free nothing, since the process keeps these objects until it ends, but they took a quarter of the
    CPU time of ``mmbirefnet cut`` for one small image. Later collections ignore the objects created in the block.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def settings_of(args: argparse.Namespace) -> Settings:
    names = {field.name for field in dataclasses.fields(Settings)} - {'input_size'}
    return Settings(input_size=args.size, **{name: getattr(args, name) for name in names})


def _size(text: str) -> int | tuple[int, int] | str:
    try:
        return parse_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
