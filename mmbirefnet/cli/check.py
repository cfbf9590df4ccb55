"""``mmbirefnet check`` and ``tools/dataset_converters/check_dataset.py``: find problems of images and masks."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING

from mmbirefnet.utils.console import escape_unprintable

if TYPE_CHECKING:
    from mmbirefnet.datasets.preparation.check import SetReport


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from mmbirefnet.datasets.preparation.check import PROBLEMS

    kinds = '\n'.join(f'  {kind:15}{meaning}' for kind, meaning in PROBLEMS.items())
    parser.epilog = f'problems:\n{kinds}\n\nexit status: 1 if there is a problem'
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        'root',
        metavar='DATA',
        help='a set (folder with im/ and gt/, images/ and masks/, or similar), or a folder of sets',
    )
    parser.add_argument(
        '--sets', nargs='+', metavar='SET', help='sets or families that must exist (default: all that do)'
    )
    parser.add_argument('--allow', nargs='+', choices=PROBLEMS, default=[], metavar='KIND', help='problems to ignore')
    parser.add_argument('--sheet', metavar='FILE', help='.png or .jpg file with thumbnails of the problems')
    parser.add_argument('--processes', type=int, help='number of processes (default: one per core)')
    parser.add_argument('--json', action='store_true', help='print the report as JSON')


def show_progress(done: int, total: int) -> None:
    print(f'\r{done}/{total}', end='' if done < total else '\r', file=sys.stderr, flush=True)


def show(reports: dict[str, SetReport]) -> None:
    """Print one line per problem and one line per set."""
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


def run(args: argparse.Namespace) -> int:
    from mmbirefnet.datasets.preparation.check import check_sets
    from mmbirefnet.visualization.sheets import draw_problems

    escape_unprintable()
    progress = show_progress if sys.stderr.isatty() else None
    reports = check_sets(args.root, args.sets, args.processes, progress)
    for report in reports.values():
        report.problems = [problem for problem in report.problems if problem.kind not in args.allow]
    if args.json:
        print(json.dumps(as_json(reports), indent=1))
    else:
        show(reports)
    if args.sheet:
        drawn = draw_problems(reports, args.sheet)
        print(f'{args.sheet}: {drawn} problems' if drawn else 'no problem to draw', file=sys.stderr)
    return int(any(report.problems for report in reports.values()))
