"""Watched folders of ``mmbirefnet cut``."""

from __future__ import annotations

import queue
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mmbirefnet.apis.job import ImageJob
from mmbirefnet.imaging.sources import Source, list_sources

from .progress import ImageProgress


class SignalSafeEvent:
    """Like ``threading.Event``, but signal handlers may set it.

    A signal can arrive while the main thread holds the lock of a ``threading.Event``, so that ``set`` waits forever.
    """

    def __init__(self) -> None:
        self._notes: queue.SimpleQueue = queue.SimpleQueue()  # whose put may interrupt its other methods

    def is_set(self) -> bool:
        return not self._notes.empty()

    def set(self) -> None:
        self._notes.put(None)

    def wait(self, seconds: float) -> None:
        """Wait until the event is set, at most ``seconds``."""
        with suppress(queue.Empty):
            self._notes.put(self._notes.get(timeout=seconds))


def cut_images(job: ImageJob, sources: list[Source], stop: SignalSafeEvent | None = None, quiet: bool = False) -> None:
    """Process images with a progress bar, until ``stop`` is set."""
    with ImageProgress(len(sources), 'cutting', quiet) as progress:
        job.on_done = progress.advance
        for _ in job.run(sources):
            if stop is not None and stop.is_set():
                break


@contextmanager
def stopped_by_signals() -> Iterator[SignalSafeEvent]:
    """Yield an event that is set by Ctrl-C and SIGTERM, instead of their default actions."""
    stop = SignalSafeEvent()
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda *_: stop.set()) for number in numbers]
    try:
        yield stop
    finally:
        for number, handler in zip(numbers, before):
            signal.signal(number, handler)


def check_folders(inputs: list[str], out: Path, interval: float) -> None:
    if not 0 < interval < float('inf'):
        raise ValueError(f'--watch {interval}: must be more than 0 seconds')
    for name in inputs:
        if not Path(name).is_dir():
            raise ValueError(f'{name}: is not a folder, and --watch needs folders')
        if Path(name).resolve() == out.resolve():
            raise ValueError(f'-o {out}: is one of the watched folders. Fix: name another folder')


def watch(
    job: ImageJob,
    folders: list[str],
    interval: float,
    stop: SignalSafeEvent,
    quiet: bool = False,
    find: Callable[..., list[Source]] = list_sources,
) -> None:
    """Process the images in the folders, and new and changed ones, until ``stop`` is set.

    An image is processed when its size and time have not changed for ``interval`` seconds, so that no file is read
    while it is being written. Images whose output existed at the start are skipped, unless it may be overwritten.

    Args:
        job: Job with a writer.
        folders: Folders to watch.
        interval: Seconds between two searches.
        stop: Event that ends the loop.
        quiet: Whether to show no progress bar.
        find: Lists the images in the folders, like :func:`~mmbirefnet.imaging.sources.list_sources`.
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
            cut_images(job, job.plan(sources, [source for source in ready if source.path not in handled]), stop, quiet)
            skip, overwrite = job.skip_existing, writer.overwrite
            job.skip_existing, writer.overwrite = False, True  # files written in this run may be replaced
            cut_images(job, job.plan(sources, changed), stop, quiet)
            job.skip_existing, writer.overwrite = skip, overwrite
            handled.update((source.path, now[source.path]) for source in ready)
        before = now
        stop.wait(interval)


def _look(find: Callable[..., list[Source]], folders: list[str], out_dir: Path) -> list[Source]:
    try:
        return find(folders, out_dir=out_dir)
    except FileNotFoundError:  # no image in the folders yet
        return []


def file_state(path: Path) -> tuple | None:
    """Modification time and size of a file; ``None`` if it does not exist."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size
