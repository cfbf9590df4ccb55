"""Measure time and memory of inference by image size, whole and in tiles, as a Markdown table.

Each size runs in a separate process with BiRefNetInferencer, from an array to the prediction at the size of the image:

    python tools/analysis_tools/benchmark_growth.py birefnet_swin-t_8xb4-500e_dis5k-1024x1024 --tile 1024

Images up to the size of a tile are predicted whole, at their size. Without --checkpoint, the weights are random, which
changes neither time nor memory. Memory is the peak of the process, minus its memory after loading the model and the
image. Seconds are the median of --runs after one run that does not count.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')  # see docs/en/notes/performance.md; read when torch is imported

MEBI = 2**20


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help="config file, or the name of one of this project's")
    parser.add_argument('--checkpoint', help='file or name of a released model (default: random weights)')
    parser.add_argument('--sizes', type=int, nargs='+', default=(256, 512, 1024, 2048, 4096), metavar='N')
    parser.add_argument('--tile', type=int, default=1024, metavar='N', help='(default: %(default)s)')
    parser.add_argument('--tile-overlap', type=int, metavar='N', help='(default: a quarter of the tile)')
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--dtype', choices=('float32', 'bfloat16', 'float16'), default='float32')
    parser.add_argument('--threads', type=int, help='CPU threads')
    parser.add_argument('--runs', type=int, default=3, help='timed runs (default: %(default)s)')
    parser.add_argument('--one', type=int, help=argparse.SUPPRESS)  # the size that a child process measures
    args = parser.parse_args()
    if min(args.runs, *args.sizes) < 1:
        parser.error('--sizes and --runs: expected 1 or more')
    return args


def measure(args: argparse.Namespace) -> dict:
    """Seconds and bytes of one size, in this process."""
    import numpy as np
    import torch

    from mmbirefnet.apis import BiRefNetInferencer, Settings, load_image

    if args.threads:
        torch.set_num_threads(args.threads)
    inferencer = BiRefNetInferencer(
        args.config if args.checkpoint else random_model(args.config), args.checkpoint, args.device, args.dtype
    )
    side = args.one
    image = load_image(np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8))
    options = dict(tile=args.tile, tile_overlap=args.tile_overlap) if side > args.tile else dict(input_size='image')
    settings = Settings(**options)
    on_gpu = torch.device(args.device).type == 'cuda'
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    else:
        Path('/proc/self/clear_refs').write_text('5')  # reset VmHWM
        before = status('VmRSS')
    seconds = []
    for _ in range(1 + args.runs):
        start = time.perf_counter()
        inferencer.predict_image(image, settings)
        seconds.append(time.perf_counter() - start)
    after = torch.cuda.max_memory_allocated() if on_gpu else status('VmHWM')
    return dict(seconds=statistics.median(seconds[1:]), memory=after - before)


def random_model(config: str):
    """The model of a config with random weights, and the config for its size."""
    import copy

    from mmengine.registry import DefaultScope

    from mmbirefnet.apis.torch_backend import find_config
    from mmbirefnet.fileio.configs import read_config
    from mmbirefnet.registry import MODELS

    cfg = read_config(find_config(config))
    model = copy.deepcopy(cfg.model)
    model.get('backbone', {}).pop('init_cfg', None)
    with DefaultScope.overwrite_default_scope('mmseg'):
        model = MODELS.build(model)
    model.cfg = cfg
    return model


def status(field: str) -> int:
    """Bytes of a field of /proc/self/status."""
    return 1024 * int(re.search(rf'{field}:\s+(\d+) kB', Path('/proc/self/status').read_text())[1])


def main() -> None:
    args = parse_args()
    if args.one:
        print(json.dumps(measure(args)))
        return
    print('| image | input | seconds | us per pixel | MiB | bytes per pixel |\n' + '| ---: ' * 6 + '|')
    for side in args.sizes:
        command = [sys.executable, *sys.argv, '--one', str(side)]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        result = json.loads(output.splitlines()[-1])
        pixels, memory = side**2, result['memory']
        shape = f'tiles of {args.tile}' if side > args.tile else 'whole'
        print(
            f'| {side}x{side} | {shape} | {result["seconds"]:.2f} | {result["seconds"] / pixels * 1e6:.2f} '
            f'| {memory / MEBI:.0f} | {memory / pixels:.0f} |',
            flush=True,
        )


if __name__ == '__main__':
    main()
