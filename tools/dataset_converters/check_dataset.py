"""Check data sets and list all problems; the same as ``mmbirefnet check``."""

import argparse
import sys

from mmbirefnet.cli.check import add_arguments, run


def main(argv=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    args = parser.parse_args(argv)
    try:
        sys.exit(run(args))
    except FileNotFoundError as error:
        sys.exit(f'error: {error}')


if __name__ == '__main__':
    main()
