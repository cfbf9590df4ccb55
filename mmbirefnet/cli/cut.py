"""``mmbirefnet cut``: masks, cut-outs and new backgrounds for images, folders, and folders that are watched."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from mmbirefnet.apis.inferencer import BiRefNetInferencer, Prediction
from mmbirefnet.imaging.formats import IMAGE_SUFFIXES
from mmbirefnet.imaging.settings import Settings
from mmbirefnet.imaging.sources import Source, is_single, is_video, list_sources
from mmbirefnet.imaging.write import FORMATS, KINDS, OutputWriter
from mmbirefnet.utils.prefetch import BoundedWorkers

from .options import add_model_arguments, add_settings_arguments, inferencer_of, settings_of
from .progress import ImageProgress


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('inputs', nargs='+', metavar='INPUT', help='image, folder (with its sub-folders) or glob')
    parser.add_argument(
        '-o', '--out', type=Path, required=True, metavar='OUT', help='folder to write to; or, for one image, a file'
    )
    group = parser.add_argument_group('output')
    group.add_argument(
        '--save',
        nargs='+',
        choices=KINDS,
        help='what to write: a gray mask, the cut-out with alpha, the '
        'foreground on --background; each in a folder of its own if there are several (default: cutout, '
        'or foreground with --background)',
    )
    group.add_argument('--background', metavar='COLOR|FILE', help="'#rrggbb', a name, or an image")
    group.add_argument('--format', choices=sorted(FORMATS), help="by default png, for the foreground the image's own")
    group.add_argument(
        '--foreground',
        action=argparse.BooleanOptionalAction,
        default=True,
        help='estimate the colors of the foreground, so that no fringe of the background stays',
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
    group.add_argument('--workers', type=int, default=2, metavar='N', help='threads that read, and threads that write')
    group.add_argument('--quiet', action='store_true', help='no progress bar')
    add_model_arguments(parser)
    add_settings_arguments(parser)


@dataclass
class Report:
    """What became of the images; ``live`` tells failures as they happen, not at the end."""

    written: int = 0
    skipped: int = 0
    failed: list[tuple[str, str]] = field(default_factory=list)
    seconds: float = 0
    live: bool = False

    def fail(self, source: Source, reason: str) -> None:
        failure = source.name, reason.removeprefix(f'{source.name}: ')  # most begin with it
        self.failed.append(failure)
        if self.live:
            _print_failures(failure)

    def print(self) -> None:
        rate = f', {self.written / self.seconds:.2f} images/s' if self.written and self.seconds else ''
        print(f'{self.written} written, {self.skipped} skipped, {len(self.failed)} failed{rate}')
        if not self.live:
            _print_failures(*self.failed)


def _print_failures(*failures: tuple[str, str]) -> None:
    for name, reason in failures:
        print(f'failed: {name}: {reason}', file=sys.stderr, flush=True)


def run(args: argparse.Namespace) -> int:
    if videos := [name for name in args.inputs if is_video(name)]:
        raise ValueError(f'{videos[0]}: is a video; see mmbirefnet video')
    if args.workers < 1:
        raise ValueError(f'--workers {args.workers}: must be 1 or more')
    # Everything that can be wrong about the options shows before the model is loaded.
    settings, writer = settings_of(args), _writer_of(args)
    sources = None if args.watch is not None else list_sources(args.inputs, exclude=args.out)
    if args.watch is not None:
        _check_folders(args.inputs, args.out, args.watch)
    inferencer = inferencer_of(args)
    writer.device = inferencer.foreground_device
    job = CutJob(inferencer, writer, settings, args.workers, args.skip_existing, args.quiet)
    if args.watch is not None:
        print(f'watching {", ".join(args.inputs)}', flush=True)
        with _stopped_by_signals() as stop:
            job.watch(args.inputs, args.watch, stop)
    else:
        try:
            job.cut(sources)
        except KeyboardInterrupt:
            job.report.print()
            raise
    job.report.print()
    return 1 if job.report.failed else 0


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


def _writer_of(args: argparse.Namespace) -> OutputWriter:
    suffix = args.out.suffix.lower()
    if suffix in IMAGE_SUFFIXES and suffix.lstrip('.') not in FORMATS:
        raise ValueError(f'-o {args.out}: {suffix} is not written; {", ".join(FORMATS)} are')
    single_file = suffix.lstrip('.') in FORMATS and not args.out.is_dir()
    if single_file and (len(args.inputs) != 1 or not is_single(args.inputs[0])):
        raise ValueError(f'-o {args.out}: one file cannot hold several images; name a folder')
    if not single_file and args.out.exists() and not args.out.is_dir():
        raise ValueError(f'-o {args.out}: is a file; name a folder, or a file that ends in {", ".join(FORMATS)}')
    return OutputWriter(args.out, args.save, args.foreground, args.background, args.format, args.overwrite, single_file)


def _check_folders(inputs: list[str], out: Path, interval: float) -> None:
    if interval <= 0:
        raise ValueError(f'--watch {interval}: must be more than 0 seconds')
    for name in inputs:
        if not Path(name).is_dir():
            raise ValueError(f'{name}: no folder; --watch needs folders')
        if Path(name).resolve() == out.resolve():
            raise ValueError(f'-o {out}: is watched itself; name another folder')


class CutJob:
    """Cuts lists of sources and counts what became of them."""

    def __init__(
        self,
        inferencer: BiRefNetInferencer,
        writer: OutputWriter,
        settings: Settings,
        workers: int = 2,
        skip_existing: bool = False,
        quiet: bool = False,
    ) -> None:
        self.inferencer, self.writer, self.settings = inferencer, writer, settings
        self.workers, self.skip_existing, self.quiet = workers, skip_existing, quiet
        self.report = Report()
        self._lock = threading.Lock()

    def cut(self, sources: list[Source], stop: threading.Event | None = None) -> None:
        """Predict and write; whatever goes wrong with an image is reported, and the others go on."""
        self.writer.plan(sources)
        self._cut(sources, stop)

    def _cut(self, sources: list[Source], stop: threading.Event | None) -> None:
        start = time.perf_counter()
        wanted = [source for source in sources if self._is_wanted(source)]
        with ImageProgress(len(wanted), self.quiet) as progress, BoundedWorkers(self.workers) as writers:

            def on_error(source: Source, error: Exception) -> None:
                with self._lock:
                    self.report.fail(source, str(error) or type(error).__name__)
                progress.advance()

            def write(prediction: Prediction) -> None:
                try:
                    self.writer.write(prediction)
                except Exception as error:
                    on_error(prediction.source, error)
                else:
                    with self._lock:
                        self.report.written += 1
                    progress.advance()

            for prediction in self.inferencer.predict(wanted, self.settings, on_error=on_error, workers=self.workers):
                writers.submit(write, prediction)
                if stop is not None and stop.is_set():
                    break
        self.report.seconds += time.perf_counter() - start

    def _is_wanted(self, source: Source) -> bool:
        if self.skip_existing and len(self.writer.existing(source)) == len(self.writer.save):
            self.report.skipped += 1
            return False
        try:
            self.writer.check(source)
        except (OSError, ValueError) as error:
            hint = ' (--overwrite or --skip-existing)' if isinstance(error, FileExistsError) else ''
            self.report.fail(source, f'{error}{hint}')
            return False
        return True

    def watch(self, folders: list[str], interval: float, stop: threading.Event) -> None:
        """Cut what is in the folders and what comes or changes, until ``stop`` is set.

        An image is taken when its size and time have stayed the same for ``interval`` seconds, so that none is read
        half-written. Those whose files exist from before are left out, unless they may be overwritten.
        """
        handled: dict[Path, tuple] = {}
        before: dict[Path, tuple] = {}
        self.skip_existing = not self.writer.overwrite
        self.report.live = True
        while not stop.is_set():
            sources = self._look(folders)
            now = {source.path: _state(source.path) for source in sources}
            ready = [s for s in sources if before.get(s.path) == now[s.path] != handled.get(s.path)]
            if ready:
                self.writer.plan(sources)
                new = [source for source in ready if source.path not in handled]
                changed = [source for source in ready if source.path in handled]
                self._cut(new, stop)
                skip, overwrite = self.skip_existing, self.writer.overwrite
                self.skip_existing, self.writer.overwrite = False, True  # what was written in this run may be replaced
                self._cut(changed, stop)
                self.skip_existing, self.writer.overwrite = skip, overwrite
                handled.update((source.path, now[source.path]) for source in ready)
            before = now
            stop.wait(interval)

    def _look(self, folders: list[str]) -> list[Source]:
        try:
            return list_sources(folders, exclude=self.writer.out_dir)
        except FileNotFoundError:  # nothing there yet
            return []


def _state(path: Path) -> tuple | None:
    """What changes when a file does; ``None`` if it is gone."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size
