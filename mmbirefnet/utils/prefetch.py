"""Compute results ahead of their use in a few threads, in order."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T, R = TypeVar('T'), TypeVar('R')


class prefetch(Iterator[tuple[T, R | None, Exception | None]]):  # noqa: N801 (used as enumerate is)
    """Results of ``work`` in the order of the items, computed ahead of time.

    Yields the item, its result or ``None``, and the exception or ``None``. If you may stop early, close it or use it as
    a context manager, which waits for its threads.

    Args:
        work: Function to call in a thread.
        items: Items, which are read one by one as needed.
        workers: Number of threads.
        ahead: Maximum number of waiting results; by default twice the threads.
    """

    def __init__(self, work: Callable[[T], R], items: Iterable[T], workers: int = 2, ahead: int | None = None) -> None:
        self._pool = ThreadPoolExecutor(workers, 'prefetch')
        self._work, self._items, self._ahead = work, iter(items), ahead or 2 * workers
        self._pending: deque = deque()

    def __next__(self) -> tuple[T, R | None, Exception | None]:
        try:
            while len(self._pending) < self._ahead:
                try:
                    item = next(self._items)
                except StopIteration:
                    break
                self._pending.append((item, self._pool.submit(self._work, item)))
            item, future = self._pending.popleft() if self._pending else (None, None)
            if future is None:
                raise StopIteration
            error = future.exception()
            if error is None:
                return item, future.result(), None
            if isinstance(error, Exception):
                return item, None, error
            raise error
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Stop reading items, and wait for the threads."""
        self._items = iter(())
        self._pending.clear()
        self._pool.shutdown(cancel_futures=True)

    def __enter__(self) -> prefetch:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def __del__(self) -> None:
        # Do not wait: garbage collection may run in any thread, also in one that is starting and holds a lock.
        self._pool.shutdown(wait=False, cancel_futures=True)


class BoundedWorkers:
    """Threads with a bounded queue: ``submit`` blocks if it is full."""

    def __init__(self, workers: int, waiting: int | None = None) -> None:
        self._pool = ThreadPoolExecutor(workers, 'write')
        self._free = threading.Semaphore(workers + (workers if waiting is None else waiting))

    def submit(self, work: Callable[..., None], *arguments) -> None:
        """Schedule ``work``, which must not raise."""
        self._free.acquire()
        self._pool.submit(work, *arguments).add_done_callback(lambda _: self._free.release())

    def __enter__(self) -> BoundedWorkers:
        return self

    def __exit__(self, *_) -> None:
        self._pool.shutdown()
