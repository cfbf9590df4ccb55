"""Helping processes that outlive a signal to the whole job, but not their parent."""

import os
import signal
import threading

_INTERVAL = 1.0  # seconds


def guard_process() -> None:
    """Call it in a helping process, such as one that loads data; there, and in its later threads, from now on:

    - SIGTERM of anyone but the parent is ignored. Slurm sends it to all processes of a job; the parent still needs
      this one to come to an orderly end.
    - The process ends within a second of its parent, also when that one is killed.
    """
    if not hasattr(signal, 'pthread_sigmask'):  # Windows
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_watch, args=(os.getppid(),), name='process_guard', daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        received = signal.sigtimedwait({signal.SIGTERM}, _INTERVAL)
        if received is not None and received.si_pid == parent:
            break
    os._exit(0 if os.getppid() == parent else 1)
