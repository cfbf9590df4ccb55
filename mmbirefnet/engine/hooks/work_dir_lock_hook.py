"""One training per work directory."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmbirefnet.registry import HOOKS

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

NAME = 'training.lock'


@HOOKS.register_module()
class WorkDirLockHook(Hook):
    """Reject a training in a work directory where another training runs, since their checkpoints would mix.

    The lock belongs to the operating system, which releases it when the process ends for any reason, also on NFS. All
    ranks of a training share one lock. Testing needs no lock.

    Raises:
        RuntimeError: If another training runs, when the training starts; the message gives its host, process and start.
    """

    priority = 'VERY_HIGH'

    def __init__(self) -> None:
        self._file = None

    def before_train(self, runner: Runner) -> None:
        """Acquire the lock, or raise an error with its owner."""
        problem = [self._take(runner) if is_main_process() else None]
        broadcast_object_list(problem)
        if problem[0]:
            raise RuntimeError(problem[0])

    def after_train(self, runner: Runner) -> None:
        """Release the lock."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _take(self, runner: Runner) -> str | None:
        path = Path(runner.work_dir, NAME)
        if fcntl is None:
            return None
        file = open(path, 'a+')  # noqa: SIM115 (open as long as the training runs)
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            file.seek(0)
            owner = file.read().strip() or 'unknown'
            return (
                f'another training runs in {runner.work_dir} ({owner}). Fix: wait, stop it, or give another --work-dir'
            )
        except OSError as error:  # a file system without locks
            runner.logger.warning(
                f'{path}: {error.strerror}; a second training in this directory would not be detected'
            )
            return None
        file.truncate(0)
        file.write(f'process {os.getpid()} on {socket.gethostname()}, since {time.strftime("%Y-%m-%d %H:%M:%S")}\n')
        file.flush()
        self._file = file
        return None
