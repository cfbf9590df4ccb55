"""Resize data sets to the training size, so that they load faster. To train on them, set MMBIREFNET_DATA=OUT."""

import argparse
import sys
import time

from mmbirefnet.datasets.preparation.layout import pack
from mmbirefnet.utils.console import escape_unprintable


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('root', metavar='ROOT', help='data root, or the folder of one set')
    parser.add_argument('out', metavar='OUT', help='folder to create')
    parser.add_argument(
        '--size', type=int, nargs=2, required=True, metavar=('WIDTH', 'HEIGHT'), help='training size in pixels'
    )
    parser.add_argument('--sets', nargs='+', metavar='SET', help='only these sets or families of sets')
    parser.add_argument(
        '--jpeg', type=int, metavar='QUALITY', help='write images as JPEG, 1 to 100 (default: PNG, the exact pixels)'
    )
    parser.add_argument('--processes', type=int, help='number of processes (default: one per core)')
    args = parser.parse_args(argv)
    if min(args.size) < 1:
        parser.error('--size: expected 1 or more')
    if args.jpeg is not None and not 1 <= args.jpeg <= 100:
        parser.error('--jpeg: expected 1 to 100')
    return args


def main(argv=None) -> None:
    escape_unprintable()
    args = parse_args(argv)
    start = time.perf_counter()
    try:
        pairs = pack(args.root, args.out, tuple(args.size), args.sets, args.jpeg, args.processes)
    except (OSError, ValueError) as error:
        sys.exit(f'error: {error}')
    print(f'{args.out}: {pairs} pairs in {time.perf_counter() - start:.1f} s')


if __name__ == '__main__':
    main()
