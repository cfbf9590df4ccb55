"""Helping processes and the death of their parent."""

import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest
from mmengine import fileio
from processes import alive, children_of, run_forked, wait_for

from mmbirefnet.datasets.preparation.check import check_sets
from mmbirefnet.datasets.preparation.layout import pack
from mmbirefnet.datasets.preparation.synthetic import write_dataset
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
    assert ready.wait(60)
    connection.send([worker.pid])
    if connection.recv() == 'terminate':
        worker.terminate()
        worker.join(60)
    connection.send(worker.exitcode)


def guarded_too_late(parent):
    wait_for(lambda: os.getppid() != parent)
    guard_process()
    time.sleep(LONG)


def keep_late_worker(connection):
    """It is so slow to start that its parent has ended before."""
    worker = _context.Process(target=guarded_too_late, args=(os.getpid(),))
    worker.start()
    connection.send([worker.pid])
    connection.recv()


def keep_pool(connection):
    pool = ScoringPool(time.sleep, 2)
    for _ in range(2):
        pool.submit(LONG)
    wait_for(lambda: len(children_of(os.getpid())) == 2)
    connection.send(children_of(os.getpid()))
    connection.recv()


def receive(connection):
    assert connection.poll(90), 'the parent is silent'
    return connection.recv()


@pytest.fixture
def parent_of():
    """Starts a parent; gives it, its connection and its workers."""
    started = []

    def start(target):
        ours, theirs = _context.Pipe()
        parent = _context.Process(target=target, args=(theirs,))
        parent.start()
        theirs.close()  # so that a parent that fails is no silent one
        started.append(parent.pid)
        workers = receive(ours)
        started.extend(workers)
        return parent, ours, workers

    yield start
    for pid in alive(started):
        os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize('target', [keep_worker, keep_late_worker, keep_pool])
def test_ends_within_seconds_of_a_killed_parent(parent_of, target):
    parent, _, workers = parent_of(target)
    assert alive(workers) == workers
    parent.kill()
    parent.join()
    wait_for(lambda: not alive(workers), seconds=20)


@pytest.mark.parametrize(
    'work',
    [partial(check_sets, processes=2), partial(pack, out='packed', size=(32, 32), processes=2)],
    ids=['check', 'pack'],
)
def test_workers_on_a_data_set_end_with_a_killed_parent(parent_of, tmp_path, monkeypatch, work):
    list(write_dataset(tmp_path / 'data', {'DIS-TR': 8}, (64, 64)))
    monkeypatch.chdir(tmp_path)

    def keep(connection):
        fileio.get = lambda *_, **__: time.sleep(LONG)
        threading.Thread(target=work, args=('data',)).start()
        wait_for(lambda: len(children_of(os.getpid())) == 2)
        connection.send(children_of(os.getpid()))
        connection.recv()

    parent, _, workers = parent_of(keep)
    parent.kill()
    parent.join()
    wait_for(lambda: not alive(workers), seconds=20)


class Waiting:
    """Garbage that waits for a thread of the process that has created it."""

    def __init__(self):
        self.itself, self.pid = self, os.getpid()

    def __del__(self):
        if os.getpid() != self.pid:
            time.sleep(LONG)


def test_garbage_of_the_parent_is_not_collected():
    def work():
        gc.unfreeze()  # what all forked processes freeze in these tests
        guard_process()
        gc.collect()

    gc.disable()
    try:
        Waiting()
        assert run_forked(work, 30) == 0
    finally:
        gc.enable()


def test_without_sigtimedwait_sigterm_ends_a_worker(monkeypatch):
    """As on macOS, where nobody would receive the signal."""
    monkeypatch.delattr(signal, 'sigtimedwait')

    def work():
        guard_process()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)

    assert run_forked(work) == -signal.SIGTERM


def waiting_signals(pid):
    """Those that a process has not received yet, as a bit mask."""
    status = Path(f'/proc/{pid}/status').read_text()
    return int(status.partition('\nShdPnd:')[2].split()[0], 16)


@pytest.mark.skipif(not Path('/proc/self/status').exists(), reason='reads /proc, which is of Linux')
def test_worker_ignores_sigterm_but_ends_with_its_parent(parent_of):
    _, connection, workers = parent_of(keep_worker)
    os.kill(workers[0], signal.SIGTERM)
    wait_for(lambda: not waiting_signals(workers[0]))  # two that wait are one
    time.sleep(0.3)
    assert alive(workers) == workers
    connection.send('terminate')
    assert receive(connection) == 0


FORK_SERVER = """
import multiprocessing
import time

from mmbirefnet.utils.process_guard import guard_process


def guarded(ready):
    guard_process()
    ready.set()
    time.sleep(300)


if __name__ == '__main__':
    context = multiprocessing.get_context('forkserver')
    ready = context.Event()
    worker = context.Process(target=guarded, args=(ready,), daemon=True)
    worker.start()
    assert ready.wait(60)
    time.sleep(1.5)  # longer than between two looks at the parent
    assert worker.is_alive()
    worker.terminate()
    worker.join(20)
    print(worker.exitcode)
"""


def test_parent_that_uses_a_fork_server(tmp_path):
    """Then the worker is a child of the server."""
    script = tmp_path / 'script.py'
    script.write_text(FORK_SERVER)
    assert subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120).stdout == '0\n'
