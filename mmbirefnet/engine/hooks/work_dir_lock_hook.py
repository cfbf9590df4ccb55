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
    """Refuses to train in a directory where another training runs, whose checkpoints it would mix with its own.

    The lock is the operating system's: it ends with its process, however that ends, on NFS too. All ranks of a
    training count as one. Testing is not concerned.

    Raises:
        RuntimeError: When the training starts; names host, process and start of the other one.
    """

    priority = 'VERY_HIGH'

    def __init__(self) -> None:
        self._file = None

    def before_train(self, runner: Runner) -> None:
        """Take the lock, or learn who has it."""
        problem = [self._take(runner) if is_main_process() else None]
        broadcast_object_list(problem)
        if problem[0]:
            raise RuntimeError(problem[0])

    def after_train(self, runner: Runner) -> None:
        """Give it back."""
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
            return f'another training runs in {runner.work_dir} ({owner}); wait, stop it, or give another --work-dir'
        except OSError as error:  # a file system without locks
            runner.logger.warning(f'{path}: {error.strerror}; a second training in this directory would go unnoticed')
            return None
        file.truncate(0)
        file.write(f'process {os.getpid()} on {socket.gethostname()}, since {time.strftime("%Y-%m-%d %H:%M:%S")}\n')
        file.flush()
        self._file = file
        return None
