"""Run work ahead of its use in a few threads, in order."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T, R = TypeVar('T'), TypeVar('R')


def prefetch(
    work: Callable[[T], R], items: Iterable[T], workers: int = 2, ahead: int | None = None
) -> Iterator[tuple[T, R | None, Exception | None]]:
    """Results of ``work``, in the items' order, each made ahead of being asked for.

    Args:
        work: Called in a thread.
        items: Taken one by one, no further ahead than needed.
        workers: Threads.
        ahead: Results that are waiting at most; by default twice the threads.

    Yields:
        The item with its result, or with the exception that it raised.
    """
    pending = deque()
    items = iter(items)
    with ThreadPoolExecutor(workers, 'prefetch') as pool:
        try:
            while True:
                while len(pending) < (ahead or 2 * workers):
                    try:
                        item = next(items)
                    except StopIteration:
                        break
                    pending.append((item, pool.submit(work, item)))
                if not pending:
                    return
                item, future = pending.popleft()
                error = future.exception()
                if error is None:
                    yield item, future.result(), None
                elif isinstance(error, Exception):
                    yield item, None, error
                else:
                    raise error
        finally:
            for _, future in pending:
                future.cancel()


class BoundedWorkers:
    """Threads behind a bounded queue: ``submit`` waits where too much is under way."""

    def __init__(self, workers: int, waiting: int | None = None) -> None:
        self._pool = ThreadPoolExecutor(workers, 'write')
        self._free = threading.Semaphore(workers + (workers if waiting is None else waiting))

    def submit(self, work: Callable[..., None], *arguments) -> None:
        """Have ``work`` done; it must not raise."""
        self._free.acquire()
        self._pool.submit(work, *arguments).add_done_callback(lambda _: self._free.release())

    def __enter__(self) -> BoundedWorkers:
        return self

    def __exit__(self, *_) -> None:
        self._pool.shutdown()
