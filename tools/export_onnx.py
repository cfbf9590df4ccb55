"""Export a model to ONNX or torch.export, and compare it with PyTorch on images.

    python tools/export_onnx.py CONFIG CHECKPOINT -o model.onnx --images data/DIS5K/DIS-VD/im/a.jpg

The exported model is fused. It takes normalized images and returns logits; see docs/en/user_guides/export.md.
"""

import argparse
import logging
import os
import statistics
import sys
from pathlib import Path

os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')  # see docs/en/notes/performance.md; read when torch is imported

import cv2
import numpy as np

from mmbirefnet.apis.onnx_backend import OnnxBackend
from mmbirefnet.apis.torch_backend import TorchBackend
from mmbirefnet.cli.options import add_crop_order_argument
from mmbirefnet.deploy import fuse
from mmbirefnet.deploy.onnx import export_onnx
from mmbirefnet.deploy.program import export_program
from mmbirefnet.deploy.verify import Comparison, compare, load_program
from mmbirefnet.imaging.sources import list_sources
from mmbirefnet.utils.deprecation import warn_renamed

SUFFIXES = {'onnx': '.onnx', 'torch-export': '.pt2'}
# The quantity that is compared with PyTorch, and its tolerance, for each format of the weights.
TOLERANCES = {'float32': ('logits', 1e-3), 'float16': ('probabilities', 0.02), 'int8': ('mean_probabilities', 0.02)}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help="config file, or the name of one of this project's")
    parser.add_argument('checkpoint', help='checkpoint file, name of a released model, Hugging Face id or URL')
    add_crop_order_argument(parser)
    parser.add_argument(
        '-o',
        '--out',
        type=Path,
        required=True,
        metavar='FILE',
        help='.onnx file to write, or .pt2 file with --format torch-export',
    )
    parser.add_argument('--format', choices=SUFFIXES, default='onnx', help='file format (default: %(default)s)')
    parser.add_argument(
        '--deform-conv',
        choices=('gridsample', 'standard'),
        default='gridsample',
        help='operators of deformable convolutions: gridsample writes GridSample and Conv, standard writes '
        'DeformConv of ONNX opset 19 (default: %(default)s)',
    )
    parser.add_argument(
        '--size',
        type=int,
        nargs=2,
        metavar=('HEIGHT', 'WIDTH'),
        help='input size in pixels (default: the training size of the model)',
    )
    parser.add_argument(
        '--batch-size', type=int, default=1, metavar='N', help='number of images per run (default: %(default)s)'
    )
    parser.add_argument('--dynamic-batch', action='store_true', help='export for any number of images')
    parser.add_argument(
        '--dynamic-size',
        action='store_true',
        help='export for any height and width in multiples of 32; only for Swin backbones and ONNX',
    )
    parser.add_argument(
        '--weights',
        choices=TOLERANCES,
        default='float32',
        help='type of the weights in ONNX: float16 halves the file, but still computes in float32; int8 quarters the '
        'file, and computes convolutions and matrix products in 8 bits (default: %(default)s)',
    )
    parser.add_argument(
        '--calibration',
        nargs='+',
        metavar='PATH',
        help='for --weights int8: 20 or more typical images, or folders of them',
    )
    parser.add_argument(
        '--opset', type=int, metavar='N', help='ONNX opset (default: 18; 19 for --deform-conv standard)'
    )
    parser.add_argument(
        '--images',
        nargs='+',
        metavar='PATH',
        help='images or folders for the comparison with PyTorch (default: noise)',
    )
    parser.add_argument('--pictures', nargs='+', help=argparse.SUPPRESS)  # former name of --images
    parser.add_argument(
        '--tolerance',
        type=float,
        metavar='T',
        help='largest accepted difference from PyTorch: of the logits (default: 1e-3); with --weights float16, of the '
        'probabilities (default: 0.02); with --weights int8, of the mean difference per image (default: 0.02)',
    )
    args = parser.parse_args()
    if args.pictures is not None:
        warn_renamed('--pictures', '--images')
        args.images = args.pictures
    if args.out.suffix != SUFFIXES[args.format]:
        parser.error(f'-o {args.out}: must end in {SUFFIXES[args.format]} with --format {args.format}')
    if args.format != 'onnx' and (args.deform_conv == 'standard' or args.opset is not None):
        parser.error('--deform-conv standard and --opset need --format onnx')
    if args.format != 'onnx' and (args.dynamic_size or args.weights != 'float32'):
        parser.error('--dynamic-size and --weights need --format onnx')
    if (args.weights == 'int8') != bool(args.calibration):
        parser.error('--weights int8 and --calibration must be used together')
    if args.tolerance is None:
        _, args.tolerance = TOLERANCES[args.weights]
    return args


def read_images(paths: list[str] | None, size: tuple[int, int]) -> dict[str, np.ndarray]:
    """Read RGB images, resized to the exported size, by name."""
    if paths is None:
        return {'noise': np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)}
    return {
        source.name: cv2.resize(np.ascontiguousarray(source.read().visible()), size[::-1])
        for source in list_sources(paths)
    }


def _report(name: str, result: Comparison) -> None:
    print(
        f'{name}: logits differ by {result.logits:.1e}, probabilities by {result.probabilities:.1e}, '
        f'on average {result.mean_probabilities:.1e}'
    )


def main() -> None:
    args = parse_args()
    for name in ('torch.onnx', 'onnxscript'):  # silence the exporter
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        backend = TorchBackend(args.config, args.checkpoint, 'cpu', fuse=False, crop_order=args.crop_order)
        size = tuple(args.size or backend.input_size)
        images = read_images(args.images, size)
        names = dict(config=Path(args.config).stem, checkpoint=Path(args.checkpoint).name)
        batch_size = None if args.dynamic_batch else args.batch_size
        args.out.parent.mkdir(parents=True, exist_ok=True)
        if args.format == 'onnx':
            calibration = read_images(args.calibration, size).values() if args.calibration else ()
            options = args.deform_conv, args.opset, args.dynamic_size, args.weights, calibration
            export_onnx(backend.model, args.out, size, batch_size, *options, **names)
        else:
            export_program(backend.model, args.out, size, batch_size, **names)
    except (OSError, ValueError, TypeError) as error:
        sys.exit(f'error: {error}')
    takes = 'any size, ' if args.dynamic_size else ''
    print(f'wrote {args.out}, {args.out.stat().st_size / 1e6:.1f} MB, {takes}{size[0]}x{size[1]}')

    model = fuse(backend.model)
    exported = (
        OnnxBackend(args.out, ['CPUExecutionProvider']).outputs if args.format == 'onnx' else load_program(args.out)
    )
    results = []
    for name, image in images.items():
        results.append(compare(model, exported, image))
        _report(name, results[-1])
        if args.dynamic_size:  # a size and aspect ratio that the export did not trace
            image = cv2.resize(image, (image.shape[1] + 64, image.shape[0] + 32))
            results.append(compare(model, exported, image))
            _report(f'{name}, {image.shape[0]}x{image.shape[1]}', results[-1])
    *_, torch_seconds, exported_seconds = (statistics.median(column) for column in zip(*results))
    print(f'median seconds per image: PyTorch, fused {torch_seconds:.2f}, exported {exported_seconds:.2f}')
    measure, _ = TOLERANCES[args.weights]
    if not max(getattr(result, measure) for result in results) <= args.tolerance:  # also fails for NaN
        sys.exit(f'error: {args.out} differs from PyTorch by more than {args.tolerance:g} (--tolerance)')


if __name__ == '__main__':
    main()
