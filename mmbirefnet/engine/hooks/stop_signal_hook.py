"""Stop a training by a signal, without losing an iteration."""

from __future__ import annotations

import signal
import threading

import torch
from mmengine.dist import all_reduce, barrier, get_world_size
from mmengine.hooks import EMAHook, Hook
from mmengine.runner import Runner

from mmbirefnet.engine.resume.checkpoints import INTERRUPTED, save_as_latest
from mmbirefnet.registry import HOOKS


@HOOKS.register_module()
class StopSignalHook(Hook):
    """Save a checkpoint after the iteration in which a signal arrives, and end the process.

    Slurm sends SIGTERM before it kills a job; torchrun passes it on, and kills after 30 seconds. All ranks stop after
    the same iteration, whichever rank received the signal. The exit status is 128 plus the number of the signal, 143
    for SIGTERM. The checkpoint is ``interrupted.pth`` in the work directory, from which ``--resume`` continues.

    During a validation, a single process stops immediately, and validates again when it resumes. Several processes
    finish the validation first.

    Args:
        signals: Names of the signals, such as ``'SIGTERM'`` or ``'SIGUSR1'``.
    """

    priority = 'LOWEST'  # after all hooks that change anything in an iteration

    def __init__(self, signals: tuple[str, ...] = ('SIGTERM',)) -> None:
        self.signals = [signal.Signals[name] for name in signals]
        self.received: signal.Signals | None = None
        self._former: dict = {}

    def before_train(self, runner: Runner) -> None:
        """Install the signal handlers."""
        if threading.current_thread() is not threading.main_thread():
            runner.logger.warning('StopSignalHook: training is not in the main thread, so signals are ignored')
            return
        self._former = {each: signal.signal(each, self._note) for each in self.signals}

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Stop if any rank received a signal."""
        number = torch.tensor(self.received or 0)
        all_reduce(number, op='max')
        if number > 0:
            self._stop(runner, dict(epoch=runner.epoch, iter=runner.iter + 1), int(number))

    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Stop a validation in a single process."""
        if self.received and get_world_size() == 1:
            for hook in runner.hooks:
                if isinstance(hook, EMAHook):  # the averages are in the model's place
                    hook.after_val_epoch(runner)
            self._stop(runner, dict(epoch=runner.epoch, iter=runner.iter), self.received)

    def after_train(self, runner: Runner) -> None:
        """Restore the signal handlers."""
        for each, handler in self._former.items():
            signal.signal(each, handler)
        self._former = {}

    def _note(self, number: int, frame) -> None:
        self.received = signal.Signals(number)

    def _stop(self, runner: Runner, meta: dict[str, int], number: int) -> None:
        name = signal.Signals(number).name
        path = save_as_latest(runner, runner.work_dir, INTERRUPTED, meta=meta, by_epoch=False)
        runner.logger.warning(
            f'{name}: stopped after iteration {meta["iter"]}, saved {path}; --resume continues from it'
        )
        barrier()  # wait until the file is written: when one process ends, launchers kill the others
        self.after_train(runner)
        raise SystemExit(128 + number)
