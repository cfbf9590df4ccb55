"""Make worker processes ignore a job-wide SIGTERM and exit when their parent dies; check that a process runs."""

import gc
import multiprocessing
import os
import signal
import threading

import cv2

_INTERVAL = 1.0  # seconds


def prepare_worker() -> None:
    """Initializer of the worker processes of a pool: :func:`guard_process`, and OpenCV without threads."""
    guard_process()
    # 0, not 1: OpenCV then does not use the threads of the parent, which a forked process does not have.
    cv2.setNumThreads(0)


def guard_process() -> None:
    """Guard the calling worker process of multiprocessing, such as a data loader, and the threads that it starts later.

    - It ignores SIGTERM unless the parent sends it. Slurm sends the signal to all processes of a job, but the parent
      needs its workers until it has saved a checkpoint.
    - It exits within a second after its parent, also if the parent is killed.
    - It does not collect garbage of the parent, whose end may wait for threads that a forked process does not have.

    On Windows and macOS, it does only the last of these.
    """
    gc.freeze()
    if not hasattr(signal, 'sigtimedwait'):
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    # os.getppid() is another process if the parent has ended already, or if a fork server started this one.
    parent = multiprocessing.parent_process().pid
    threading.Thread(target=_watch, args=(parent,), name='process_guard', daemon=True).start()


def is_running(pid: int) -> bool:
    """Whether a process of this machine runs; ``True`` if that is unknown, as on Windows."""
    if os.name == 'nt':  # os.kill would end it
        return True
    try:
        os.kill(pid, 0)  # sends no signal
    except ProcessLookupError:
        return False
    except OSError:  # of another user
        return True
    return True


def _watch(parent: int) -> None:
    started_by = os.getppid()  # the parent or the fork server
    while os.getppid() == started_by and is_running(parent):
        received = signal.sigtimedwait({signal.SIGTERM}, _INTERVAL)
        if received is not None and received.si_pid == parent:
            os._exit(0)
    os._exit(1)
