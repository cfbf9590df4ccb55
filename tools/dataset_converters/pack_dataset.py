"""Copy sets so that they load faster: at the training size (--size), into one file (OUT ends in .lmdb), or both.

OUT is a data root then: MMBIREFNET_DATA=OUT, or MMBIREFNET_DATA=lmdb://OUT for an LMDB.
"""

import argparse
import sys
import time

from mmbirefnet.datasets.preparation.packing import pack
from mmbirefnet.utils.console import escape_unprintable


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('root', metavar='ROOT', help='data root, or one set')
    parser.add_argument('out', metavar='OUT', help='new folder, or a new file that ends in .lmdb')
    parser.add_argument('--sets', nargs='+', metavar='SET', help='only these sets or families')
    parser.add_argument(
        '--size',
        type=int,
        nargs=2,
        metavar=('WIDTH', 'HEIGHT'),
        help='resize to the training size (training sets only)',
    )
    parser.add_argument(
        '--jpeg', type=int, metavar='QUALITY', help='images as JPEG, 1 to 100 (PNG: the very pixels; masks always)'
    )
    parser.add_argument('--processes', type=int, help='processes (one for each core)')
    args = parser.parse_args(argv)
    if args.size and min(args.size) < 1:
        parser.error('--size: expected 1 or more')
    if args.jpeg is not None and not 1 <= args.jpeg <= 100:
        parser.error('--jpeg: expected 1 to 100')
    return args


def main(argv=None) -> None:
    escape_unprintable()
    args = parse_args(argv)
    start = time.perf_counter()
    try:
        size = tuple(args.size) if args.size else None
        pairs = pack(args.root, args.out, args.sets, size, args.jpeg, args.processes)
    except (OSError, ValueError, ImportError) as error:
        sys.exit(f'error: {error}')
    print(f'{args.out}: {pairs} pairs in {time.perf_counter() - start:.1f} s')


if __name__ == '__main__':
    main()
