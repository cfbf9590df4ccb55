"""Stopping a training by a signal, without losing an iteration."""

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
    """Saves a checkpoint after the iteration in which a signal arrives, and ends the process.

    Slurm sends SIGTERM before it kills a job, torchrun passes it on (and kills after 30 seconds). All ranks stop after
    the same iteration, whichever has the signal. The exit status is 128 plus the signal's number, 143 for SIGTERM. The
    checkpoint is ``interrupted.pth`` in the work directory; a resumption goes on from it.

    During a validation a single process stops at once; it is validated again when resumed. Several processes finish
    it first.

    Args:
        signals: Names of the signals to stop by, for example also ``'SIGUSR1'``.
    """

    priority = 'LOWEST'  # after all that an iteration changes

    def __init__(self, signals: tuple[str, ...] = ('SIGTERM',)) -> None:
        self.signals = [signal.Signals[name] for name in signals]
        self.received: signal.Signals | None = None
        self._former: dict = {}

    def before_train(self, runner: Runner) -> None:
        """Listen."""
        if threading.current_thread() is not threading.main_thread():
            runner.logger.warning('StopSignalHook: training is not in the main thread, signals are not listened to')
            return
        self._former = {each: signal.signal(each, self._note) for each in self.signals}

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Stop, if any rank has been asked to."""
        number = torch.tensor(self.received or 0)
        all_reduce(number, op='max')
        if number > 0:
            self._stop(runner, dict(epoch=runner.epoch, iter=runner.iter + 1), int(number))

    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Stop a validation of one process."""
        if self.received and get_world_size() == 1:
            for hook in runner.hooks:
                if isinstance(hook, EMAHook):  # the averages are in the model's place
                    hook.after_val_epoch(runner)
            self._stop(runner, dict(epoch=runner.epoch, iter=runner.iter), self.received)

    def after_train(self, runner: Runner) -> None:
        """Listen no more."""
        for each, handler in self._former.items():
            signal.signal(each, handler)
        self._former = {}

    def _note(self, number: int, frame) -> None:
        self.received = signal.Signals(number)

    def _stop(self, runner: Runner, meta: dict[str, int], number: int) -> None:
        name = signal.Signals(number).name
        path = save_as_latest(runner, runner.work_dir, INTERRUPTED, meta=meta, by_epoch=False)
        runner.logger.warning(f'{name}: stopped after iteration {meta["iter"]}, saved {path}; --resume goes on from it')
        barrier()  # nobody ends before the file is there: launchers then kill the others
        self.after_train(runner)
        raise SystemExit(128 + number)
