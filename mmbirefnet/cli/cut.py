"""``mmbirefnet cut``: masks, cut-outs and new backgrounds for images, folders, and folders that are watched."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
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
from .progress import ImageProgress

DECODE_SECONDS = 30


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        'inputs',
        nargs='+',
        metavar='INPUT',
        help='image, folder (with its sub-folders), glob, http(s) URL, or - for the standard input',
    )
    parser.add_argument(
        '-o',
        '--out',
        type=Path,
        required=True,
        metavar='OUT',
        help='folder to write to; or, for one image, a file, or - for the standard output',
    )
    group = parser.add_argument_group('output')
    add_output_argument(
        group,
        'gray mask, cut-out with alpha, or composite of the object and --background; several are written to one folder '
        'each (default: cutout, or composite with --background)',
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
        help='crop files to the object, with a margin that is a share of its sides; <file>.json has the box',
    )
    existing = group.add_mutually_exclusive_group()
    existing.add_argument('--overwrite', action='store_true', help='replace files that exist')
    existing.add_argument('--skip-existing', action='store_true', help='leave images out whose files all exist')
    group.add_argument(
        '--watch',
        nargs='?',
        type=float,
        const=1.0,
        metavar='SECONDS',
        help='go on, and look for new and '
        'changed images in the folders every so often (default: %(const)s); Ctrl-C ends it',
    )
    group.add_argument(
        '--report', type=Path, metavar='FILE', help='JSON file to write: files, sizes, box, seconds and error by image'
    )
    group.add_argument('--workers', type=int, default=2, metavar='N', help='threads that read, and threads that write')
    group.add_argument('--quiet', action='store_true', help='no progress bar')
    group = parser.add_argument_group('input')
    group.add_argument(
        '--mask',
        metavar='FILE|FOLDER',
        help='take the mask from a file, or each from the file of the same path below a folder, in place of a model',
    )
    group.add_argument(
        '--guide',
        metavar='FILE|FOLDER',
        help='coarse mask of what to cut out, likewise, for a model that takes one (finetune --recipe guided)',
    )
    group.add_argument(
        '--frames',
        choices=('all', 'first'),
        default='all',
        help='of animations (GIF, PNG, WebP, AVIF) and TIFF pages (default: %(default)s)',
    )
    group.add_argument(
        '--recursive', action=argparse.BooleanOptionalAction, default=True, help='search the sub-folders of folders'
    )
    group.add_argument(
        '--include',
        nargs='+',
        default=(),
        metavar='PATTERN',
        help="of folders and globs, only files like these: '*.jpg'; with a slash, 'sub/*', the path below the folder",
    )
    group.add_argument('--exclude', nargs='+', default=(), metavar='PATTERN', help='no files like these')
    group.add_argument('--limit', type=int, metavar='N', help='N images at most, without those that are skipped')
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
        help='let URLs lead to addresses that are not public, such as this machine and its network',
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
        help='decode images in this process: somewhat faster, but a damaged file may hang or end it',
    )
    add_model_arguments(parser)
    add_settings_arguments(parser)


def run(args: argparse.Namespace) -> int:
    if str(args.out) != '-':
        return _run(args, None)
    stream = sys.stdout.buffer
    with redirect_stdout(sys.stderr):  # nothing but the image goes to the standard output
        return _run(args, stream)


def _run(args: argparse.Namespace, stream: BinaryIO | None) -> int:
    _check_options(args)
    max_pixels = int(args.max_pixels * 1e6)
    # Everything that can be wrong about the options shows before the model is loaded.
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
        raise ValueError(f'--report {args.report}: must be a file, in a folder that exists')
    share = Share.from_environment()
    if share.size > 1 and (args.watch is not None or writer.single_file or stream):
        raise ValueError(
            f'{share.size} processes share one folder of outputs: leave out --watch, and name a folder with -o'
        )
    if args.watch is None:
        sources = find([_standard_input() if name == '-' else name for name in args.inputs], left_out=left_out)
    else:
        _check_folders(args.inputs, args.out, args.watch)
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
                with _stopped_by_signals() as stop:
                    watch(job, args.inputs, args.watch, stop, args.quiet, find)
            else:
                wanted = sources[share.rank :: share.size]
                _cut(job, job.plan(sources, wanted, args.limit), quiet=args.quiet or share.rank > 0)
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
        raise ValueError(f'{videos[0]}: is a video; see mmbirefnet video')
    if args.workers < 1:
        raise ValueError(f'--workers {args.workers}: must be 1 or more')
    for option, value in (('--max-pixels', args.max_pixels), ('--max-download', args.max_download)):
        if not 0 < value < float('inf'):
            raise ValueError(f'{option} {value}: must be more than 0')
    if args.limit is not None and args.limit < 1:
        raise ValueError(f'--limit {args.limit}: must be 1 or more')
    if args.limit is not None and args.watch is not None:
        raise ValueError('--limit: is not used with --watch')
    if args.mask is not None and (args.checkpoint or args.config):
        raise ValueError(f'--mask {args.mask}: takes the place of a model. Fix: leave out --checkpoint and --config')
    if args.mask is not None and args.guide is not None:
        raise ValueError(f'--guide {args.guide}: is for a model, whose place --mask takes. Fix: leave one of them out')
    if args.inputs.count('-') > 1:
        raise ValueError('-: the standard input can be read once')


def _standard_input() -> Source:
    """The image on the standard input, which is read to its end."""
    content = sys.stdin.buffer.read()
    return Source(content, Path(f'stdin{suffix_of(content) or ""}'), 'standard input')


def _device_of(share: Share) -> str | None:
    """The GPU of a process among several; ``None`` where there is none."""
    import torch

    gpus = torch.cuda.device_count()
    return f'cuda:{share.local_rank % gpus}' if gpus else None


class Failures:
    """Lines about images that failed; ``live`` prints each as it happens, not at the end."""

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
    encoding = sys.stdout.encoding or 'utf-8'  # names may have characters that it lacks
    print((counts + describe_left_out(left_out)).encode(encoding, 'backslashreplace').decode(encoding))
    failures.print()


def _cut(job: ImageJob, sources: list[Source], stop: threading.Event | None = None, quiet: bool = False) -> None:
    with ImageProgress(len(sources), quiet) as progress:
        job.on_done = progress.advance
        for _ in job.run(sources):
            if stop is not None and stop.is_set():
                break


@contextmanager
def _stopped_by_signals() -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set, in place of what they do otherwise."""
    stop = threading.Event()
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda *_: stop.set()) for number in numbers]
    try:
        yield stop
    finally:
        for number, handler in zip(numbers, before):
            signal.signal(number, handler)


def _writer_of(args: argparse.Namespace, max_pixels: int, stream: BinaryIO | None) -> OutputWriter:
    suffix = args.out.suffix.lower()
    if suffix in IMAGE_SUFFIXES and suffix.lstrip('.') not in FORMATS:
        raise ValueError(f'-o {args.out}: {suffix} is not written; {", ".join(FORMATS)} are')
    single_file = suffix.lstrip('.') in FORMATS and not args.out.is_dir()
    if (single_file or stream) and (len(args.inputs) != 1 or not is_single(args.inputs[0])):
        raise ValueError(f'-o {args.out}: one file cannot hold several images; name a folder')
    if not single_file and not stream and args.out.exists() and not args.out.is_dir():
        raise ValueError(f'-o {args.out}: is a file; name a folder, or a file that ends in {", ".join(FORMATS)}')
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


def _check_folders(inputs: list[str], out: Path, interval: float) -> None:
    if not 0 < interval < float('inf'):
        raise ValueError(f'--watch {interval}: must be a number of seconds above 0')
    for name in inputs:
        if not Path(name).is_dir():
            raise ValueError(f'{name}: no folder; --watch needs folders')
        if Path(name).resolve() == out.resolve():
            raise ValueError(f'-o {out}: is watched itself; name another folder')


def watch(
    job: ImageJob,
    folders: list[str],
    interval: float,
    stop: threading.Event,
    quiet: bool = False,
    find: Callable[..., list[Source]] = list_sources,
) -> None:
    """Cut what is in the folders and what comes or changes, until ``stop`` is set.

    An image is taken when its size and time have stayed the same for ``interval`` seconds, so that none is read
    half-written. Those whose files exist from before are left out, unless they may be overwritten. ``find`` lists the
    images in the folders, as :func:`~mmbirefnet.imaging.sources.list_sources` does.
    """
    writer = job.writer
    handled: dict[Path, tuple] = {}
    before: dict[Path, tuple] = {}
    job.skip_existing = not writer.overwrite
    while not stop.is_set():
        sources = _look(find, folders, writer.out_dir)
        now = {source.path: file_state(source.path) for source in sources}
        ready = [s for s in sources if before.get(s.path) == now[s.path] != handled.get(s.path)]
        if ready:
            changed = [source for source in ready if source.path in handled]
            _cut(job, job.plan(sources, [source for source in ready if source.path not in handled]), stop, quiet)
            skip, overwrite = job.skip_existing, writer.overwrite
            job.skip_existing, writer.overwrite = False, True  # what was written in this run may be replaced
            _cut(job, job.plan(sources, changed), stop, quiet)
            job.skip_existing, writer.overwrite = skip, overwrite
            handled.update((source.path, now[source.path]) for source in ready)
        before = now
        stop.wait(interval)


def _look(find: Callable[..., list[Source]], folders: list[str], out_dir: Path) -> list[Source]:
    try:
        return find(folders, out_dir=out_dir)
    except FileNotFoundError:  # nothing there yet
        return []


def file_state(path: Path) -> tuple | None:
    """What changes when a file does; ``None`` if it is gone."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size
