"""A work directory belongs to one training."""

import errno
import multiprocessing
import os
import socket
import time
from types import SimpleNamespace

import pytest
from processes import run_forked

from mmbirefnet.engine import WorkDirLockHook
from mmbirefnet.engine.hooks import work_dir_lock_hook


class Log:
    def __init__(self):
        self.warnings = []

    def warning(self, message):
        self.warnings.append(message)


@pytest.fixture
def runner(tmp_path):
    return SimpleNamespace(work_dir=str(tmp_path), logger=Log())


def in_another_process(function):
    """The message of the error that a function raises in a process of its own, empty if there is none."""
    ours, theirs = multiprocessing.Pipe()

    def run():
        try:
            function()
        except RuntimeError as error:
            theirs.send(str(error))

    assert run_forked(run) == 0
    return ours.recv() if ours.poll() else ''


def test_error_names_host_and_process_of_the_first_run(runner):
    def other():
        WorkDirLockHook().before_train(runner)

    hook = WorkDirLockHook()
    hook.before_train(runner)
    message = in_another_process(other)
    owner = f'process {os.getpid()} on {socket.gethostname()}, since 20'
    assert message.startswith(f'another training runs in {runner.work_dir} ({owner}')
    hook.after_train(runner)
    assert in_another_process(other) == ''
    hook.before_train(runner)  # the other has ended, without giving the lock back


def test_children_do_not_keep_it(runner):
    """Processes that load data outlive a killed training by moments."""
    hook = WorkDirLockHook()
    hook.before_train(runner)
    child = multiprocessing.get_context('fork').Process(target=time.sleep, args=(300,), daemon=True)
    child.start()
    hook.after_train(runner)
    assert in_another_process(lambda: WorkDirLockHook().before_train(runner)) == ''
    child.kill()
    child.join()


def test_file_systems_without_locks(runner, monkeypatch):
    def refuse(*args):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(work_dir_lock_hook.fcntl, 'lockf', refuse)
    WorkDirLockHook().before_train(runner)
    (warning,) = runner.logger.warnings
    assert warning.endswith('a second training in this directory would not be detected')
