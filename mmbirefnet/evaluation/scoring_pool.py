"""Scoring in the background, with a bound on what waits."""

from __future__ import annotations

import multiprocessing
import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import cv2
import mmengine.dist

from mmbirefnet.utils.process_guard import guard_process

_MOST_WORKERS = 8
WAITING_PER_WORKER = 2


def resolve_workers(workers: int | str) -> int:
    """The number of worker processes; ``'auto'`` shares the cores among the ranks of this machine, 8 at most.

    Raises:
        ValueError: if it is neither ``'auto'`` nor a number from 0 on.
    """
    if workers == 'auto':
        cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
        ranks = int(os.environ.get('LOCAL_WORLD_SIZE', mmengine.dist.get_world_size()))
        return max(1, min(cores // ranks, _MOST_WORKERS))
    if not isinstance(workers, int) or isinstance(workers, bool) or workers < 0:
        raise ValueError(f"num_workers: expected 'auto' or an integer from 0 on, got {workers!r}")
    return workers


class ScoringPool:
    """Calls a function in worker processes and keeps the results in the order of the calls.

    At most two calls per worker wait; then ``submit`` waits too, so that memory stays bounded however slow scoring is.

    Args:
        function: importable by name, as its arguments are sent to other processes.
        workers: number of processes; 0 calls the function at once in this one.
    """

    def __init__(self, function: Callable, workers: int) -> None:
        self._function = function
        self._workers = workers
        self._executor = None
        self.pending: deque = deque()
        self._results: list = []

    def submit(self, *args) -> None:
        """Call the function with ``args`` soon."""
        if self._workers == 0:
            self._results.append(self._function(*args))
            return
        if self._executor is None:
            # The start method is the program's: mmengine sets it by env_cfg.mp_cfg.
            self._executor = ProcessPoolExecutor(
                self._workers, multiprocessing.get_context(), initializer=_prepare_worker
            )
        while len(self.pending) >= WAITING_PER_WORKER * self._workers:
            self._collect_oldest()
        self.pending.append(self._executor.submit(self._function, *args))

    def take(self) -> list:
        """Results that are there by now, without waiting; each is handed out once."""
        while self.pending and self.pending[0].done():
            self._collect_oldest()
        results, self._results = self._results, []
        return results

    def finish(self) -> list:
        """Wait for all calls, end the worker processes and return the results not yet taken."""
        try:
            while self.pending:
                self._collect_oldest()
        finally:
            self._shut_down()
        return self.take()

    def _collect_oldest(self) -> None:
        try:
            self._results.append(self.pending.popleft().result())
        except BrokenProcessPool as error:
            self._shut_down()
            raise RuntimeError(
                'a scoring worker died, most often for lack of memory: '
                f'set num_workers of the metric below {self._workers}'
            ) from error

    def _shut_down(self) -> None:
        self.pending.clear()
        if self._executor is not None:
            self._executor.shutdown(cancel_futures=True)
            self._executor = None


def _prepare_worker() -> None:
    guard_process()
    # 0, not 1: OpenCV then leaves alone the threads of the parent, which a forked process does not have.
    cv2.setNumThreads(0)
