"""Helping processes and the death of their parent."""

import multiprocessing
import os
import signal
import time

import pytest
from processes import alive, children_of, wait_for

from mmbirefnet.evaluation.scoring_pool import ScoringPool
from mmbirefnet.utils.process_guard import guard_process

_context = multiprocessing.get_context('fork')
LONG = 300


def guarded(ready):
    guard_process()
    ready.set()
    time.sleep(LONG)


def keep_worker(connection):
    ready = _context.Event()
    worker = _context.Process(target=guarded, args=(ready,))
    worker.start()
    ready.wait()
    connection.send([worker.pid])
    if connection.recv() == 'terminate':
        worker.terminate()
        worker.join()
    connection.send(worker.exitcode)


def keep_pool(connection):
    pool = ScoringPool(time.sleep, 2)
    for _ in range(2):
        pool.submit(LONG)
    wait_for(lambda: len(children_of(os.getpid())) == 2)
    connection.send(children_of(os.getpid()))
    connection.recv()


@pytest.fixture
def parent_of():
    """Starts a parent; gives it, its connection and its workers."""
    started = []

    def start(target):
        ours, theirs = _context.Pipe()
        parent = _context.Process(target=target, args=(theirs,))
        parent.start()
        workers = ours.recv()
        started.extend([parent.pid, *workers])
        return parent, ours, workers

    yield start
    for pid in alive(started):
        os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize('target', [keep_worker, keep_pool])
def test_ends_within_seconds_of_a_killed_parent(parent_of, target):
    parent, _, workers = parent_of(target)
    assert alive(workers) == workers
    parent.kill()
    parent.join()
    wait_for(lambda: not alive(workers), seconds=20)


def test_worker_ignores_sigterm_but_ends_with_its_parent(parent_of):
    _, connection, workers = parent_of(keep_worker)
    os.kill(workers[0], signal.SIGTERM)
    time.sleep(0.3)
    assert alive(workers) == workers
    connection.send('terminate')
    assert connection.recv() == 0
