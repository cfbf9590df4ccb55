"""Export a model to ONNX or torch.export, and compare it with PyTorch on pictures.

    python tools/export_onnx.py CONFIG CHECKPOINT -o model.onnx --pictures data/DIS5K/DIS-VD/im/a.jpg

What is exported is the fused model, from normalized images to logits; see docs/en/user_guides/export.md.
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
from mmbirefnet.deploy import fuse
from mmbirefnet.deploy.onnx import export_onnx
from mmbirefnet.deploy.program import export_program
from mmbirefnet.deploy.verify import Comparison, compare, load_program
from mmbirefnet.imaging.sources import list_sources

SUFFIXES = {'onnx': '.onnx', 'torch-export': '.pt2'}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help="config file, or the name of one of this project's")
    parser.add_argument('checkpoint', help='file of this project or released, name of a released model, or URL')
    parser.add_argument('-o', '--out', type=Path, required=True, metavar='FILE', help='.onnx, or .pt2 for torch-export')
    parser.add_argument('--format', choices=SUFFIXES, default='onnx', help='what to write (default: %(default)s)')
    parser.add_argument(
        '--deform-conv',
        choices=('gridsample', 'standard'),
        default='gridsample',
        help='how deformable convolutions are written: by GridSample and Conv (default), or for ONNX by DeformConv of '
        'opset 19',
    )
    parser.add_argument(
        '--size', type=int, nargs=2, metavar=('HEIGHT', 'WIDTH'), help="by default the size of the config's test"
    )
    parser.add_argument('--batch-size', type=int, default=1, metavar='N', help='images at once (default: 1)')
    parser.add_argument('--dynamic-batch', action='store_true', help='any number of images at once')
    parser.add_argument(
        '--dynamic-size', action='store_true', help='any height and width, multiples of 32; only for Swin and ONNX'
    )
    parser.add_argument(
        '--weights',
        choices=('float32', 'float16'),
        default='float32',
        help='how ONNX stores the kernels: float16 halves the file, the arithmetic stays in float32 '
        '(default: %(default)s)',
    )
    parser.add_argument('--opset', type=int, metavar='N', help='of ONNX; by default 18, with standard 19')
    parser.add_argument(
        '--pictures', nargs='+', metavar='PATH', help='pictures or folders to compare on; noise without'
    )
    parser.add_argument(
        '--tolerance',
        type=float,
        metavar='T',
        help='of the logits (default: 1e-3), or with --weights float16 of the probabilities (default: 0.02)',
    )
    args = parser.parse_args()
    if args.out.suffix != SUFFIXES[args.format]:
        parser.error(f'-o {args.out}: with --format {args.format} the file ends in {SUFFIXES[args.format]}')
    if args.format != 'onnx' and (args.deform_conv == 'standard' or args.opset is not None):
        parser.error('--deform-conv standard and --opset are for --format onnx')
    if args.format != 'onnx' and (args.dynamic_size or args.weights != 'float32'):
        parser.error('--dynamic-size and --weights are for --format onnx')
    if args.tolerance is None:
        args.tolerance = 0.02 if args.weights == 'float16' else 1e-3
    return args


def read_images(paths: list[str] | None, size: tuple[int, int]) -> dict[str, np.ndarray]:
    """RGB images of the exported size by their names."""
    if paths is None:
        return {'noise': np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)}
    return {
        source.name: cv2.resize(np.ascontiguousarray(source.read().visible()), size[::-1])
        for source in list_sources(paths)
    }


def _report(name: str, result: Comparison) -> None:
    print(f'{name}: logits differ by {result.logits:.1e}, probabilities by {result.probabilities:.1e}')


def main() -> None:
    args = parse_args()
    for name in ('torch.onnx', 'onnxscript'):  # notes on their own passes
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        backend = TorchBackend(args.config, args.checkpoint, 'cpu', fuse=False)
        size = tuple(args.size or backend.input_size)
        images = read_images(args.pictures, size)
        names = dict(config=Path(args.config).stem, checkpoint=Path(args.checkpoint).name)
        batch_size = None if args.dynamic_batch else args.batch_size
        args.out.parent.mkdir(parents=True, exist_ok=True)
        if args.format == 'onnx':
            options = args.deform_conv, args.opset, args.dynamic_size, args.weights
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
        if args.dynamic_size:  # another size and aspect ratio than that of the trace
            image = cv2.resize(image, (image.shape[1] + 64, image.shape[0] + 32))
            results.append(compare(model, exported, image))
            _report(f'{name}, {image.shape[0]}x{image.shape[1]}', results[-1])
    seconds = [statistics.median(column) for column in zip(*results)][2:]
    print(f'median seconds an image: PyTorch, fused {seconds[0]:.2f}, exported {seconds[1]:.2f}')
    measure = 'logits' if args.weights == 'float32' else 'probabilities'
    if not max(getattr(result, measure) for result in results) <= args.tolerance:  # NaN is no agreement either
        sys.exit(f'error: {args.out} differs from PyTorch by more than {args.tolerance:g} (--tolerance)')


if __name__ == '__main__':
    main()
