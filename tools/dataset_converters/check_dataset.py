"""Check downloaded sets: counts, pairs, sizes, unreadable files, masks that are none; every problem at once.

ROOT is a set (a folder with im/ and gt/) or a folder with sets in it, in folders of families or not.
"""

import argparse
import json
import sys

from mmbirefnet.datasets.preparation.check import KINDS, SetReport, check_sets
from mmbirefnet.utils.console import escape_unprintable


def parse_args(argv=None) -> argparse.Namespace:
    kinds = '\n'.join(f'  {kind:12} {meaning}' for kind, meaning in KINDS.items())
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog=f'problems:\n{kinds}\n\nexit status: 1 if there is any',
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('root', metavar='ROOT', help='data root, or one set')
    parser.add_argument('--sets', nargs='+', metavar='SET', help='sets or families that must be there (all that are)')
    parser.add_argument('--allow', nargs='+', choices=KINDS, default=[], metavar='KIND', help='no problem in this data')
    parser.add_argument('--processes', type=int, help='processes (one for each core)')
    parser.add_argument('--json', action='store_true', help='print JSON')
    return parser.parse_args(argv)


def show_progress(done: int, total: int) -> None:
    print(f'\r{done}/{total}', end='' if done < total else '\r', file=sys.stderr, flush=True)


def show(reports: dict[str, SetReport]) -> None:
    """One line a problem, one line a set."""
    for report in reports.values():
        for problem in report.problems:
            print(f'{problem.path}: {problem.kind}: {problem.detail}')
    for name, report in reports.items():
        published = f' of {report.published} published' if report.published else ''
        found = ', '.join(f'{count} {kind}' for kind, count in report.kinds().items()) or 'no problem'
        print(f'{name}: {report.images} images{published}, {report.masks} masks: {found}')


def as_json(reports: dict[str, SetReport]) -> dict:
    counts = {
        name: dict(images=report.images, masks=report.masks, published=report.published, problems=report.kinds())
        for name, report in reports.items()
    }
    problems = [dict(set=name, **problem._asdict()) for name, report in reports.items() for problem in report.problems]
    return dict(sets=counts, problems=problems)


def main(argv=None) -> None:
    escape_unprintable()
    args = parse_args(argv)
    progress = show_progress if sys.stderr.isatty() else None
    try:
        reports = check_sets(args.root, args.sets, args.processes, progress)
    except FileNotFoundError as error:
        sys.exit(f'error: {error}')
    for report in reports.values():
        report.problems = [problem for problem in report.problems if problem.kind not in args.allow]
    if args.json:
        print(json.dumps(as_json(reports), indent=1))
    else:
        show(reports)
    sys.exit(any(report.problems for report in reports.values()))


if __name__ == '__main__':
    main()
