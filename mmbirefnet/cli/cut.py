"""``mmbirefnet cut``: masks, cut-outs and new backgrounds for images, folders and watched folders."""

from __future__ import annotations

import argparse
import sys
from contextlib import nullcontext, redirect_stdout
from functools import partial
from pathlib import Path
from typing import BinaryIO

from mmbirefnet.apis.job import ImageJob, Share
from mmbirefnet.apis.masks import MaskInferencer
from mmbirefnet.imaging.formats import IMAGE_SUFFIXES
from mmbirefnet.imaging.read import MAX_PIXELS, suffix_of
from mmbirefnet.imaging.sandbox import ImageDecoder
from mmbirefnet.imaging.sources import Source, describe_left_out, is_single, is_video, list_sources
from mmbirefnet.imaging.urls import MAX_BYTES
from mmbirefnet.imaging.write import FORMATS, OutputWriter

from .options import (
    add_foreground_argument,
    add_model_arguments,
    add_output_argument,
    add_settings_arguments,
    inferencer_of,
    set_threads,
    settings_of,
)
from .watch import check_folders, cut_images, stopped_by_signals, watch

DECODE_SECONDS = 30


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        'inputs',
        nargs='+',
        metavar='INPUT',
        help='image, folder (with subfolders), glob, http(s) URL, or - for standard input',
    )
    parser.add_argument(
        '-o',
        '--out',
        type=Path,
        required=True,
        metavar='OUT',
        help='output folder; for a single image also a file, or - for standard output',
    )
    group = parser.add_argument_group('output')
    add_output_argument(
        group,
        'gray mask, cut-out with alpha, or composite of the object on --background; each of several goes to its own '
        'folder (default: cutout, or composite with --background)',
        nargs='+',
    )
    group.add_argument('--background', metavar='COLOR|FILE', help="'#rrggbb', a name, or an image")
    group.add_argument(
        '--format',
        choices=sorted(FORMATS),
        help='default: png for masks and cut-outs; the format of the input for composites, animations and pages',
    )
    add_foreground_argument(group)
    group.add_argument(
        '--crop',
        nargs='?',
        type=float,
        const=0.0,
        metavar='MARGIN',
        help='crop the output to the object, with a margin as a fraction of its sides; <file>.json contains the box',
    )
    existing = group.add_mutually_exclusive_group()
    existing.add_argument('--overwrite', action='store_true', help='replace existing files')
    existing.add_argument('--skip-existing', action='store_true', help='skip images whose output files all exist')
    group.add_argument(
        '--watch',
        nargs='?',
        type=float,
        const=1.0,
        metavar='SECONDS',
        help='keep running, and look for new and changed images in the folders every SECONDS (default: %(const)s); '
        'stop with Ctrl-C',
    )
    group.add_argument(
        '--report',
        type=Path,
        metavar='FILE',
        help='write a JSON report: files, sizes, box, seconds and error of each image',
    )
    group.add_argument(
        '--workers',
        type=int,
        default=2,
        metavar='N',
        help='number of threads that read images, and of those that write them (default: %(default)s)',
    )
    group.add_argument('--quiet', action='store_true', help='no progress bar')
    group = parser.add_argument_group('input')
    group.add_argument(
        '--mask',
        metavar='FILE|FOLDER',
        help='use existing masks instead of a model: a file, or a folder with a file of the same relative path for '
        'each image',
    )
    group.add_argument(
        '--guide',
        metavar='FILE|FOLDER',
        help='coarse mask of the object, a file or a folder, for a model with guidance (finetune --recipe guided)',
    )
    group.add_argument(
        '--frames',
        choices=('all', 'first'),
        default='all',
        help='process all frames of animations (GIF, PNG, WebP, AVIF) and all pages of TIFF files, or only the first '
        '(default: %(default)s)',
    )
    group.add_argument('--recursive', action=argparse.BooleanOptionalAction, default=True, help='search subfolders')
    group.add_argument(
        '--include',
        nargs='+',
        default=(),
        metavar='PATTERN',
        help="in folders and globs, use only files that match, such as '*.jpg'; a pattern with a slash, such as "
        "'sub/*', is matched against the path relative to the folder",
    )
    group.add_argument('--exclude', nargs='+', default=(), metavar='PATTERN', help='leave out files that match')
    group.add_argument('--limit', type=int, metavar='N', help='process at most N images, not counting skipped ones')
    group.add_argument(
        '--max-download',
        type=float,
        default=MAX_BYTES / 2**20,
        metavar='MIB',
        help='largest file from a URL, in MiB (default: %(default).0f)',
    )
    group.add_argument(
        '--allow-private-urls',
        action='store_true',
        help='allow URLs with addresses that are not public, such as this machine and its network',
    )
    group.add_argument(
        '--max-pixels',
        type=float,
        default=MAX_PIXELS / 1e6,
        metavar='MP',
        help='largest image, in megapixels (default: %(default).0f)',
    )
    group.add_argument(
        '--no-sandbox',
        dest='sandbox',
        action='store_false',
        help='decode images in this process instead of a worker process: slightly faster, but a damaged file may '
        'crash it',
    )
    add_model_arguments(parser)
    add_settings_arguments(parser)


def run(args: argparse.Namespace) -> int:
    if str(args.out) != '-':
        return _run(args, None)
    stream = sys.stdout.buffer
    with redirect_stdout(sys.stderr):  # only the image may go to standard output
        return _run(args, stream)


def _run(args: argparse.Namespace, stream: BinaryIO | None) -> int:
    _check_options(args)
    max_pixels = int(args.max_pixels * 1e6)
    # Check all options before the model is loaded.
    settings, writer = settings_of(args), _writer_of(args, max_pixels, stream)
    left_out: list[Path] = []
    find = partial(
        list_sources,
        out_dir=None if stream else args.out,
        recursive=args.recursive,
        include=args.include,
        exclude=args.exclude,
        max_bytes=int(args.max_download * 2**20),
        allow_private_urls=args.allow_private_urls,
    )
    if args.report is not None and (args.report.is_dir() or not args.report.parent.is_dir()):
        raise ValueError(f'--report {args.report}: must be a file in an existing folder')
    share = Share.from_environment()
    if share.size > 1 and (args.watch is not None or writer.single_file or stream):
        raise ValueError(
            f'{share.size} processes write to one folder. Fix: leave out --watch, and name a folder with -o'
        )
    if args.watch is None:
        sources = find([_standard_input() if name == '-' else name for name in args.inputs], left_out=left_out)
    else:
        check_folders(args.inputs, args.out, args.watch)
    decoder = ImageDecoder(args.workers, DECODE_SECONDS, max_pixels=max_pixels) if args.sandbox else None
    if share.size > 1:
        share.begin(args.out)
        set_threads(args)  # before torch is imported
        args.device = args.device or _device_of(share)
    inferencer = inferencer_of(args) if args.mask is None else MaskInferencer(args.mask, decoder)
    if args.guide is not None:
        inferencer.check_guide()
    job = ImageJob(
        inferencer,
        writer,
        settings,
        workers=args.workers,
        skip_existing=args.skip_existing,
        decoder=decoder,
        max_pixels=max_pixels,
        frames=args.frames,
        records=args.report is not None,
        guide=args.guide,
    )
    failures = Failures(live=args.watch is not None)
    job.on_error = failures.add
    with decoder or nullcontext():
        try:
            if args.watch is not None:
                print(f'watching {", ".join(args.inputs)}', flush=True)
                with stopped_by_signals() as stop:
                    watch(job, args.inputs, args.watch, stop, args.quiet, find)
            else:
                wanted = sources[share.rank :: share.size]
                cut_images(job, job.plan(sources, wanted, args.limit), quiet=args.quiet or share.rank > 0)
        finally:
            if share.size > 1:
                print(f'process {share.rank} of {share.size}: ', end='')
            _print_report(job, left_out, failures)
            if args.report is not None and share.size == 1:
                job.report.save(args.report)
    if share.size > 1 and (total := share.join(args.out, job.report)) is not None:
        print(f'all processes: {total.written} written, {total.skipped} skipped, {total.failed} failed')
        if args.report is not None:
            total.save(args.report)
    return 1 if job.report.failed else 0


def _check_options(args: argparse.Namespace) -> None:
    if videos := [name for name in args.inputs if is_video(name)]:
        raise ValueError(f'{videos[0]}: is a video. Fix: use mmbirefnet video')
    if args.workers < 1:
        raise ValueError(f'--workers {args.workers}: must be 1 or more')
    for option, value in (('--max-pixels', args.max_pixels), ('--max-download', args.max_download)):
        if not 0 < value < float('inf'):
            raise ValueError(f'{option} {value}: must be more than 0')
    if args.limit is not None and args.limit < 1:
        raise ValueError(f'--limit {args.limit}: must be 1 or more')
    if args.limit is not None and args.watch is not None:
        raise ValueError('--limit cannot be used with --watch')
    if args.mask is not None and (args.checkpoint or args.config):
        raise ValueError(f'--mask {args.mask}: is used instead of a model. Fix: leave out --checkpoint and --config')
    if args.mask is not None and args.guide is not None:
        raise ValueError(
            f'--guide {args.guide}: needs a model, but --mask is used instead of one. Fix: leave out --guide or --mask'
        )
    if args.inputs.count('-') > 1:
        raise ValueError('-: standard input can be read only once')


def _standard_input() -> Source:
    """Read the image from standard input."""
    content = sys.stdin.buffer.read()
    return Source(content, Path(f'stdin{suffix_of(content) or ""}'), 'standard input')


def _device_of(share: Share) -> str | None:
    """GPU of one of several processes; ``None`` on machines without a GPU."""
    import torch

    gpus = torch.cuda.device_count()
    return f'cuda:{share.local_rank % gpus}' if gpus else None


class Failures:
    """Collects a line for each image that failed; with ``live`` each is printed at once, otherwise at the end."""

    def __init__(self, live: bool = False) -> None:
        self.live = live
        self.lines: list[str] = []

    def add(self, source: Source, error: Exception) -> None:
        hint = ' (--overwrite or --skip-existing)' if isinstance(error, FileExistsError) else ''
        reason = str(error).removeprefix(f'{source.name}: ') or type(error).__name__
        self.lines.append(f'failed: {source.name}: {reason}{hint}')
        if self.live:
            self.print()

    def print(self) -> None:
        for line in self.lines:
            print(line, file=sys.stderr, flush=True)
        self.lines.clear()


def _print_report(job: ImageJob, left_out: list[Path], failures: Failures) -> None:
    report = job.report
    rate = f', {report.written / report.seconds:.2f} images/s' if report.written and report.seconds else ''
    counts = f'{report.written} written, {report.skipped} skipped, {report.failed} failed{rate}'
    encoding = sys.stdout.encoding or 'utf-8'  # may lack characters of file names
    print((counts + describe_left_out(left_out)).encode(encoding, 'backslashreplace').decode(encoding))
    failures.print()


def _writer_of(args: argparse.Namespace, max_pixels: int, stream: BinaryIO | None) -> OutputWriter:
    suffix = args.out.suffix.lower()
    if suffix in IMAGE_SUFFIXES and suffix.lstrip('.') not in FORMATS:
        raise ValueError(f'-o {args.out}: cannot write {suffix}. Fix: use one of {", ".join(FORMATS)}')
    single_file = suffix.lstrip('.') in FORMATS and not args.out.is_dir()
    if (single_file or stream) and (len(args.inputs) != 1 or not is_single(args.inputs[0])):
        raise ValueError(f'-o {args.out}: one file cannot hold several images. Fix: name a folder')
    if not single_file and not stream and args.out.exists() and not args.out.is_dir():
        raise ValueError(
            f'-o {args.out}: is an existing file. Fix: name a folder, or a file that ends in {", ".join(FORMATS)}'
        )
    return OutputWriter(
        args.out,
        args.save,
        args.estimate_foreground,
        args.background,
        args.format,
        args.overwrite,
        single_file,
        max_pixels=max_pixels,
        crop=args.crop,
        stream=stream,
    )
