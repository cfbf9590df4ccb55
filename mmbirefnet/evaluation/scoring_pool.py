"""Scoring in worker processes, with a limit on waiting calls."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from concurrent.futures.process import BrokenProcessPool
from typing import NamedTuple

import mmengine.dist

from mmbirefnet.utils.process_guard import prepare_worker

_MOST_WORKERS = 8
WAITING_PER_WORKER = 2
TIMEOUT = 1800.0  # seconds; HCE takes some minutes for a map of a hundred megapixels
_pids = None  # in a worker: the process that each waiting call runs in, 0 if none


def resolve_workers(workers: int | str) -> int:
    """Number of worker processes; ``'auto'`` divides the cores among the ranks of this machine, at most 8 each.

    Raises:
        ValueError: If ``workers`` is neither ``'auto'`` nor an integer of at least 0.
    """
    if workers == 'auto':
        cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
        ranks = int(os.environ.get('LOCAL_WORLD_SIZE', mmengine.dist.get_world_size()))
        return max(1, min(cores // ranks, _MOST_WORKERS))
    if not isinstance(workers, int) or isinstance(workers, bool) or workers < 0:
        raise ValueError(f"num_workers: expected 'auto' or an integer from 0 on, got {workers!r}")
    return workers


class _Call(NamedTuple):
    name: str
    slot: int
    future: Future


class ScoringPool:
    """Call a function in worker processes and keep the results in the order of the calls.

    At most two calls per worker wait. If there are more, ``submit`` blocks, so that memory stays bounded.

    Args:
        function: Function to call; must be importable by name, since it runs in other processes.
        workers: Number of processes; 0 calls the function immediately in this process.
        timeout: Seconds that a call in a worker may take; 0 for no limit.

    Raises:
        ValueError: If ``timeout`` is negative.
        RuntimeError: If a worker dies or exceeds the timeout; the message names the call. ``submit``, ``take`` and
            ``finish`` raise it, and all errors of the function.
    """

    def __init__(self, function: Callable, workers: int, timeout: float = TIMEOUT) -> None:
        if not timeout >= 0:
            raise ValueError(f'timeout={timeout!r}, must be a number of seconds, or 0 for no limit')
        self._function = function
        self._workers = workers
        self._timeout = timeout
        self._executor = None
        self._submitted = 0
        self.pending: deque[_Call] = deque()
        self._results: list = []

    def submit(self, *args, name: object = None) -> None:
        """Schedule a call with ``args``; error messages contain ``name``, by default the first argument."""
        if self._workers == 0:
            self._results.append(self._function(*args))
            return
        if self._executor is None:
            # The start method is that of the program, which mmengine sets from env_cfg.mp_cfg.
            context = multiprocessing.get_context()
            self._pids = context.RawArray('q', WAITING_PER_WORKER * self._workers)
            self._executor = ProcessPoolExecutor(
                self._workers, context, initializer=_prepare_worker, initargs=(self._pids,)
            )
        while len(self.pending) >= len(self._pids):
            self._collect_oldest()
        slot = self._submitted % len(self._pids)
        self._submitted += 1
        future = self._executor.submit(_call_in_worker, slot, self._function, *args)
        self.pending.append(_Call(str(args[0] if name is None else name), slot, future))

    def take(self) -> list:
        """Return results that are ready, without waiting; each is returned once."""
        while self.pending and self.pending[0].future.done():
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
        # It is running: calls start in their order, and all earlier ones have ended.
        name, slot, future = oldest = self.pending.popleft()
        try:
            self._results.append(future.result(self._timeout or None))
        except BrokenProcessPool as error:
            running = [call.name for call in (oldest, *self.pending) if self._pids[call.slot]] or [name]
            self._shut_down()
            raise RuntimeError(
                f'a worker died that scored {" or ".join(running)}, most often for lack of memory. '
                f'Fix: set num_workers of the metric below {self._workers}'
            ) from error
        except FutureTimeoutError:
            if future.done():  # an error of the function
                raise
            if pid := self._pids[slot]:
                os.kill(pid, signal.SIGKILL)
            self._shut_down()
            raise RuntimeError(
                f'{name}: scoring takes longer than {self._timeout:g} s and was stopped. Fix: a larger timeout of the '
                'metric, or 0 for no limit'
            ) from None

    def _shut_down(self) -> None:
        self.pending.clear()
        if self._executor is not None:
            self._executor.shutdown(cancel_futures=True)
            self._executor = None


def _call_in_worker(slot: int, function: Callable, *args):
    _pids[slot] = os.getpid()
    try:
        return function(*args)
    finally:
        _pids[slot] = 0


def _prepare_worker(pids) -> None:
    global _pids
    _pids = pids
    prepare_worker()
