"""Checkpoints that a crash at any moment leaves usable."""

from __future__ import annotations

import inspect
import os
from collections import deque
from pathlib import Path
from typing import Any

from mmengine.dist import broadcast_object_list, get_world_size, is_main_process
from mmengine.fileio import LocalBackend
from mmengine.hooks import CheckpointHook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from mmengine.runner.base_loop import BaseLoop
from torch import Tensor, nn

from mmbirefnet.engine.loops.resumable_train_loop import VALIDATED_INFO
from mmbirefnet.engine.resume.newest_checkpoint import is_training_checkpoint, newest_checkpoint
from mmbirefnet.engine.resume.saving import INTERRUPTED, TEMPORARY, remove, save_safely, write_safely
from mmbirefnet.fileio.checkpoints import misfit
from mmbirefnet.registry import HOOKS

_GRADIENTS = 'accumulated_gradients'


@HOOKS.register_module()
class SafeCheckpointHook(CheckpointHook):
    """mmengine's ``CheckpointHook``, safe against crashes, full disks and damaged files.

    - A checkpoint is written under a temporary name, synced to the disk, and then renamed; ``last_checkpoint``, the
      file that names it, likewise. Older checkpoints are removed after that, not before.
    - If it cannot be written, the error says which one stays.
    - A run is resumed (by mmengine's ``Runner``) from the training checkpoint that ``load_from`` names, else from the
      newest whole one of the work directory, else started anew, from the parameters of ``load_from`` if there are any.
    - A checkpoint of another model is not resumed, but an error; mmengine would load what fits.
    - Gradients that have been accumulated for the next step are in the checkpoint (of one process alone).

    Folders that are not local are left to mmengine's hook.

    Args:
        **kwargs: Arguments of :class:`mmengine.hooks.CheckpointHook`.

    Raises:
        TypeError: If there is another argument.
    """

    def __init__(self, **kwargs) -> None:
        known = {*inspect.signature(CheckpointHook).parameters, *inspect.signature(Runner.save_checkpoint).parameters}
        if unknown := kwargs.keys() - known:  # mmengine would tell when the first one is saved
            raise TypeError(f'SafeCheckpointHook: unexpected arguments {sorted(unknown)}')
        super().__init__(**kwargs)
        self._meta: dict[str, int] = {}
        self._gradients: dict[str, Tensor] = {}

    def before_run(self, runner: Runner) -> None:
        """Choose the checkpoint to resume from."""
        trains = isinstance(runner, Runner) and isinstance(runner._train_loop, BaseLoop)
        if not trains or not runner._resume or is_training_checkpoint(runner._load_from or ''):
            return
        folders = [runner.work_dir]
        if self.out_dir:
            folders.append(os.path.join(self.out_dir, os.path.basename(runner.work_dir)))
        chosen = [newest_checkpoint(*folders) if is_main_process() else None]
        broadcast_object_list(chosen)
        if chosen[0] is not None:
            runner._load_from = chosen[0]
        else:
            runner._resume = False
            start = f'the parameters of {runner._load_from}' if runner._load_from else 'the start'
            runner.logger.warning(f'no checkpoint to resume from in {runner.work_dir}: training from {start}')

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Make sure that what is resumed fits; keep accumulated gradients until the training starts."""
        if runner._resume and isinstance(runner, Runner):
            state = {key.removeprefix('module.'): value for key, value in checkpoint['state_dict'].items()}
            if problems := misfit(state, _plain(runner).state_dict()):
                raise ValueError(f'{runner._load_from}: of another model than the one that is resumed: {problems}')
        self._gradients = checkpoint.pop(_GRADIENTS, {})

    def before_train(self, runner: Runner) -> None:
        """Prepare the folder."""
        super().before_train(runner)
        if runner.iter > 0:
            for name, parameter in _plain(runner).named_parameters():
                if name in self._gradients:
                    parameter.grad = self._gradients[name].to(parameter)
        self._gradients = {}
        if self._is_local and is_main_process():
            for leftover in Path(self.out_dir).glob(TEMPORARY.format('*.pth')):  # of a run that was killed meanwhile
                remove(leftover)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Complete what is saved."""
        checkpoint['meta'].update(self._meta)  # FlexibleRunner has put its own over what the hook asked for
        self._meta = {}
        alone = isinstance(runner, Runner) and get_world_size() == 1
        if alone and 'optimizer' in checkpoint and not runner.optim_wrapper.should_update():
            parameters = _plain(runner).named_parameters()
            checkpoint[_GRADIENTS] = {name: p.grad.cpu() for name, p in parameters if p.grad is not None}

    def after_val_epoch(self, runner: Runner, metrics: dict) -> None:
        """Save the best checkpoint."""
        runner.message_hub.update_info(VALIDATED_INFO, runner.epoch)
        super().after_val_epoch(runner, metrics)

    @property
    def _is_local(self) -> bool:
        return isinstance(self.file_backend, LocalBackend)

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        if not self._is_local:
            super()._save_checkpoint_with_step(runner, step, meta)
            return
        runner = runner.runner if isinstance(runner, _SavingBest) else runner
        outdated = []
        if self.max_keep_ckpts > 0 and step not in self.keep_ckpt_ids:
            steps = [*self.keep_ckpt_ids, step]
            outdated, kept = steps[: -self.max_keep_ckpts], steps[-self.max_keep_ckpts :]
            self.keep_ckpt_ids = deque(kept, self.max_keep_ckpts)
            runner.message_hub.update_info('keep_ckpt_ids', kept)
        name = self.filename_tmpl.format(step)
        self.last_ckpt = os.path.join(self.out_dir, name)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        self._meta = {key: meta[key] for key in ('epoch', 'iter')}
        options = dict(save_optimizer=self.save_optimizer, save_param_scheduler=self.save_param_scheduler, **self.args)
        save_safely(runner, self.out_dir, name, meta=meta, by_epoch=self.by_epoch, **options)
        if is_main_process():
            remove(os.path.join(runner.work_dir, INTERRUPTED))
            for old in outdated:
                remove(os.path.join(self.out_dir, self.filename_tmpl.format(old)))

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        if not self._is_local or not self.save_best:
            super()._save_best_checkpoint(runner, metrics)
            return
        # mmengine removes the former best ones first: they are hidden from it until the new ones are there.
        former = self._best
        self._best = dict.fromkeys(former)
        super()._save_best_checkpoint(_SavingBest(runner), metrics)
        new = self._best
        self._best = {key: new[key] or old for key, old in former.items()}
        if is_main_process():
            for key, old in former.items():
                if old and new[key] and old != new[key]:
                    remove(old)

    @property
    def _best(self) -> dict[str, str | None]:
        """Paths of the best checkpoints by their measure."""
        return dict(self.best_ckpt_path_dict) if len(self.key_indicators) > 1 else {'': self.best_ckpt_path}

    @_best.setter
    def _best(self, paths: dict[str, str | None]) -> None:
        if len(self.key_indicators) > 1:
            self.best_ckpt_path_dict = dict(paths)
        else:
            self.best_ckpt_path = paths['']


class _SavingBest:
    """A runner that writes safely what mmengine's hook has it save."""

    def __init__(self, runner: Runner) -> None:
        self.runner = runner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.runner, name)

    def save_checkpoint(self, out_dir: str, filename: str, **options) -> None:
        write_safely(self.runner, out_dir, filename, **options)


def _plain(runner: Runner) -> nn.Module:
    return runner.model.module if is_model_wrapper(runner.model) else runner.model
