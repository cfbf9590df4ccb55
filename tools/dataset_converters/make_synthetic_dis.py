"""Generate a synthetic data set in the DIS5K layout: objects with exact soft masks on textured backgrounds."""

import argparse
import sys
import time

from mmbirefnet.datasets.preparation.synthetic import write_dataset

SETS = {'DIS-TR': 160, 'DIS-VD': 40, 'DIS-TE1': 0, 'DIS-TE2': 0, 'DIS-TE3': 0, 'DIS-TE4': 0}


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument('out_dir', help='data root: each set is written to OUT_DIR/<set>/{im,gt}')
    for name, count in SETS.items():
        parser.add_argument(
            f'--{name.lower()}', dest=name, type=_count, default=count, metavar='N', help=f'images in {name}'
        )
    parser.add_argument(
        '--size', type=_side, nargs='+', default=[512], metavar='PX', help='side, or height and width, in pixels'
    )
    parser.add_argument('--seed', type=_count, default=0, help='seed; the same seed gives the same files')
    parser.add_argument('--overwrite', action='store_true', help='write into set folders that are not empty')
    parser.add_argument('--threads', type=_side, default=2, help='number of threads; it does not change the images')
    args = parser.parse_args(argv)
    if len(args.size) > 2:
        parser.error(f'--size takes one or two numbers, not {len(args.size)}')
    if not any(getattr(args, name) for name in SETS):
        parser.error('nothing to generate: every set has 0 images')
    return args


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f'{text}: must be 0 or greater')
    return value


def _side(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f'{text}: must be 1 or greater')
    return value


def main(argv=None) -> None:
    args = parse_args(argv)
    counts = {name: getattr(args, name) for name in SETS if getattr(args, name)}
    size = (args.size[0], args.size[-1])
    start = time.perf_counter()
    try:
        written = sum(1 for _ in write_dataset(args.out_dir, counts, size, args.seed, args.overwrite, args.threads))
    except FileExistsError as error:
        sys.exit(f'error: {error}')
    seconds = time.perf_counter() - start
    sets = ', '.join(f'{name} {count}' for name, count in counts.items())
    print(f'{args.out_dir}: {written} images of {size[0]}x{size[1]} ({sets}) in {seconds:.1f} s')


if __name__ == '__main__':
    main()
