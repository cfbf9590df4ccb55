"""Data loading processes that end with the training, not before and not after."""

from __future__ import annotations

from collections.abc import Callable

from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmbirefnet.registry import HOOKS
from mmbirefnet.utils.process_guard import guard_process


class _Guarded:
    """A ``worker_init_fn`` after which the process is guarded."""

    def __init__(self, initialize: Callable[[int], None] | None) -> None:
        self.initialize = initialize

    def __call__(self, worker: int) -> None:
        if self.initialize is not None:
            self.initialize(worker)
        guard_process()


@HOOKS.register_module()
class WorkerGuardHook(Hook):
    """Applies :func:`~mmbirefnet.utils.process_guard.guard_process` to the processes of all data loaders."""

    priority = 'VERY_HIGH'  # before anything iterates a loader

    def before_train(self, runner: Runner) -> None:
        """Guard training's processes, and validation's."""
        self._guard(runner.train_loop)
        if runner.val_loop is not None:
            self._guard(runner.val_loop)

    def before_val(self, runner: Runner) -> None:
        """Guard validation's processes."""
        self._guard(runner.val_loop)

    def before_test(self, runner: Runner) -> None:
        """Guard testing's processes."""
        self._guard(runner.test_loop)

    @staticmethod
    def _guard(loop) -> None:
        if not isinstance(loop.dataloader.worker_init_fn, _Guarded):
            loop.dataloader.worker_init_fn = _Guarded(loop.dataloader.worker_init_fn)
