"""Write checkpoints atomically, so that a crash at any moment leaves a usable one."""

from __future__ import annotations

import errno
import inspect
import os
import shutil
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mmengine.dist import broadcast_object_list, get_world_size, is_main_process
from mmengine.evaluator import BaseMetric
from mmengine.fileio import LocalBackend
from mmengine.hooks import CheckpointHook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from mmengine.runner.base_loop import BaseLoop
from torch import Tensor, nn
from torch.utils.data import Dataset

from mmbirefnet.engine.loops import VALIDATED_INFO
from mmbirefnet.engine.resume.checkpoints import (
    INTERRUPTED,
    TEMPORARY,
    is_training_checkpoint,
    newest_checkpoint,
    remove,
    save_as_latest,
    save_atomically,
)
from mmbirefnet.engine.resume.doubled_kernels import rescale_gradients, warn_unscaled
from mmbirefnet.fileio.checkpoints import add_wrapped_names, misfit
from mmbirefnet.registry import HOOKS

_GRADIENTS = 'accumulated_gradients'
# Keys that mmseg's IoUMetric returns besides aAcc, by `iou_metrics`.
_IOU_KEYS = dict(mIoU=('mIoU', 'mAcc'), mDice=('mDice', 'mAcc'), mFscore=('mFscore', 'mPrecision', 'mRecall'))


@HOOKS.register_module()
class AtomicCheckpointHook(CheckpointHook):
    """mmengine's ``CheckpointHook``, robust against crashes, full disks and damaged files.

    - A checkpoint is written under a temporary name, synced to the disk, and renamed; so is ``last_checkpoint``, the
      file that contains its path. Older checkpoints are removed only after that.
    - If a checkpoint cannot be written, the error names the one that is kept.
    - ``--resume`` continues from ``load_from`` if that is a training checkpoint, otherwise from the newest undamaged
      checkpoint of the work directory. Without either, training starts from scratch, or from the parameters of
      ``load_from``.
    - Resuming from a checkpoint of another model is an error. mmengine would load the parameters that fit.
    - Before training, ``save_best`` is checked against the keys that the evaluator will return, and the size of a
      checkpoint against the free disk space.
    - ``save_best`` may name a measure without prefix and data set. With several sets it is then the mean over them.
    - Gradients accumulated for the next step are saved too (with a single process).

    In folders that are not local, checkpoints are written by mmengine's hook.

    Args:
        **kwargs: Arguments of :class:`mmengine.hooks.CheckpointHook`.

    Raises:
        TypeError: If there is an unknown argument.
        ValueError: When training starts, if the evaluator does not return ``save_best``, or if ``rule`` would keep
            the worst checkpoint.
        OSError: When training starts, if the disk has no space for two checkpoints.
    """

    def __init__(self, **kwargs) -> None:
        known = {*inspect.signature(CheckpointHook).parameters, *inspect.signature(Runner.save_checkpoint).parameters}
        if unknown := kwargs.keys() - known:  # mmengine fails only when it saves the first one
            raise TypeError(f'AtomicCheckpointHook: unexpected arguments {sorted(unknown)}')
        super().__init__(**kwargs)
        if self.save_best and kwargs.get('rule') is None and 'auto' not in self.save_best:
            # mmengine searches the whole key for a measure's name, and would find it in the name of a set.
            self._init_rule([None], [key.rpartition('/')[2] for key in self.save_best])
            self.is_better_than = {key: self.rule_map[rule] for key, rule in zip(self.save_best, self.rules)}
            self.key_indicators = list(self.save_best)
        self._trains = False
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
        """Check that a resumed checkpoint fits the model, convert it if it is of an older version, and keep accumulated
        gradients until the training starts.
        """
        add_wrapped_names(checkpoint.get('state_dict', checkpoint), runner.model)
        if runner._resume and isinstance(runner, Runner):
            state = {key.removeprefix('module.'): value for key, value in checkpoint['state_dict'].items()}
            if problems := misfit(state, _plain(runner).state_dict()):
                raise ValueError(f'{runner._load_from}: checkpoint of another model, cannot resume: {problems}')
            rescale_gradients(runner, _plain(runner), checkpoint)
        elif runner._resume:
            warn_unscaled(runner, checkpoint)
        self._gradients = checkpoint.pop(_GRADIENTS, {})

    def before_train(self, runner: Runner) -> None:
        """Prepare the folder, and check ``save_best`` and the disk space before the first iteration."""
        super().before_train(runner)
        self._trains = True
        self._check_save_best(runner)
        self._check_space(runner)
        if runner.iter > 0:
            for name, parameter in _plain(runner).named_parameters():
                if name in self._gradients:
                    parameter.grad = self._gradients[name].to(parameter)
        self._gradients = {}
        if self._is_local and is_main_process():
            for leftover in Path(self.out_dir).glob(TEMPORARY.format('*.pth')):  # of a killed run
                remove(leftover)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Add the progress and the accumulated gradients to the checkpoint."""
        checkpoint['meta'].update(self._meta)  # FlexibleRunner overwrites the meta that the hook passed
        self._meta = {}
        alone = isinstance(runner, Runner) and get_world_size() == 1
        if alone and 'optimizer' in checkpoint and not runner.optim_wrapper.should_update():
            parameters = _plain(runner).named_parameters()
            checkpoint[_GRADIENTS] = {name: p.grad.cpu() for name, p in parameters if p.grad is not None}

    def after_val_epoch(self, runner: Runner, metrics: dict) -> None:
        """Save the best checkpoint, if this validation is part of a training."""
        if not self._trains:
            return
        runner.message_hub.update_info(VALIDATED_INFO, runner.epoch)
        super().after_val_epoch(runner, metrics)

    def after_train(self, runner: Runner) -> None:
        """Run mmengine's ``after_train``, which publishes the checkpoint."""
        super().after_train(runner)
        self._trains = False

    def _check_save_best(self, runner: Runner) -> None:
        if not self.save_best or runner.val_loop is None or 'auto' in self.save_best:
            return
        metrics, sets = runner.val_evaluator.metrics, _sets_of(runner.val_dataloader.dataset)
        keys_by_metric = [_result_keys(metric, sets) for metric in metrics]
        self._check_rules([key for metric, keys in zip(metrics, keys_by_metric) if _is_ours(metric) for key in keys])
        if None in keys_by_metric:
            return  # the keys of other metrics are known only after a validation
        keys = [key for keys in keys_by_metric for key in keys]
        hooks = [hook for hook in runner.hooks if hasattr(hook, 'adds_metric')]  # such as ValLossHook
        for name in self.save_best:
            if any(hook.adds_metric(name) for hook in hooks):
                continue
            if name not in keys and not _keys_of(name, keys):
                raise ValueError(_not_returned(name, keys))

    def _check_rules(self, keys: list[str]) -> None:
        """Compare the rules with the directions of the measures of this package."""
        from mmbirefnet.evaluation import lower_is_better

        for name, rule in zip(self.key_indicators, self.rules):
            own = [key for key in keys if key == name or _keys_of(name, [key])]
            right = {'less' if lower_is_better(key) else 'greater' for key in own}
            if right and rule not in right:
                raise ValueError(
                    f'default_hooks.checkpoint: save_best={name} with rule={rule} would keep the worst checkpoint. '
                    f'Fix: rule={right.pop()}, also in greater_keys and less_keys'
                )

    def _check_space(self, runner: Runner) -> None:
        if not self._is_local or not isinstance(runner, Runner):
            return
        tensors = [*runner.model.parameters(), *runner.model.buffers()]
        size = sum(tensor.nbytes for tensor in tensors)
        if self.save_optimizer:  # Adam has two values per parameter
            size += sum(2 * p.nbytes for p in runner.model.parameters() if p.requires_grad)
        folder = Path(self.out_dir)
        folder.mkdir(parents=True, exist_ok=True)
        free, wanted = shutil.disk_usage(folder).free, size * (max(self.max_keep_ckpts, 1) + 1)
        space = f'{folder}: a checkpoint takes about {size / 2**20:.0f} MiB, {free / 2**20:.0f} MiB are free'
        fix = 'Fix: free disk space, or choose another --work-dir'
        if free < 2 * size:  # a new one is written before an old one is removed
            raise OSError(errno.ENOSPC, f'{space}, and two must fit. {fix}')
        if free < wanted and runner.iter == 0:
            runner.logger.warning(
                f'{space}, and max_keep_ckpts={self.max_keep_ckpts} are kept. {fix}, or set '
                'default_hooks.checkpoint.max_keep_ckpts'
            )

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
        save_as_latest(runner, self.out_dir, name, meta=meta, by_epoch=self.by_epoch, **options)
        if is_main_process():
            remove(os.path.join(runner.work_dir, INTERRUPTED))
            for old in outdated:
                remove(os.path.join(self.out_dir, self.filename_tmpl.format(old)))

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        for name in self.key_indicators if self.save_best else ():
            if name not in metrics and name != 'auto':
                found = _keys_of(name, metrics)
                if not found:
                    raise ValueError(_not_returned(name, metrics))
                metrics = {**metrics, name: sum(metrics[key] for key in found) / len(found)}
        if not self._is_local or not self.save_best:
            super()._save_best_checkpoint(runner, metrics)
            return
        # mmengine removes the previous best checkpoints first: hide them until the new ones are written.
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
        """Paths of the best checkpoints by measure."""
        return dict(self.best_ckpt_path_dict) if len(self.key_indicators) > 1 else {'': self.best_ckpt_path}

    @_best.setter
    def _best(self, paths: dict[str, str | None]) -> None:
        if len(self.key_indicators) > 1:
            self.best_ckpt_path_dict = dict(paths)
        else:
            self.best_ckpt_path = paths['']


class _SavingBest:
    """Runner proxy whose ``save_checkpoint`` is atomic; mmengine's hook saves the best checkpoint with it."""

    def __init__(self, runner: Runner) -> None:
        self.runner = runner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.runner, name)

    def save_checkpoint(self, out_dir: str, filename: str, **options) -> None:
        save_atomically(self.runner, out_dir, filename, **options)


def _sets_of(dataset: Dataset) -> list[str]:
    """Names of the sets of a data set, including those that it concatenates or wraps."""
    inner = getattr(dataset, 'datasets', None) or ([dataset.dataset] if hasattr(dataset, 'dataset') else [])
    own = [] if inner else getattr(dataset, 'metainfo', {}).get('sets') or ()
    return list(dict.fromkeys([*own, *(name for each in inner for name in _sets_of(each))]))


def _is_ours(metric: BaseMetric) -> bool:
    return hasattr(metric, 'result_keys')


def _result_keys(metric: BaseMetric, sets: list[str]) -> list[str] | None:
    """Keys that a metric will return for images of these sets; None if unknown."""
    from mmseg.evaluation import IoUMetric

    if _is_ours(metric):
        return metric.result_keys(sets)
    if type(metric) is not IoUMetric:
        return None
    names = [] if metric.format_only else ['aAcc', *(key for each in metric.metrics for key in _IOU_KEYS.get(each, ()))]
    return [f'{metric.prefix}/{name}' if metric.prefix else name for name in names]


def _keys_of(name: str, keys: Iterable[str]) -> list[str]:
    """Keys of a measure, one per set, given its bare name."""
    from mmbirefnet.evaluation.report import MEANS  # imported here: scoring needs packages that training does not

    found = [key for key in keys if key.endswith(f'/{name}')]
    return [key for key in found if key.rpartition('/')[0].rpartition('/')[2] not in MEANS] or found


def _not_returned(name: str, keys: Iterable[str]) -> str:
    return (
        f'default_hooks.checkpoint.save_best={name}: the validation returns {", ".join(keys) or "nothing"}. '
        'Fix: choose one of these, or let val_evaluator compute it (measures of DichotomousMetric)'
    )


def _plain(runner: Runner) -> nn.Module:
    return runner.model.module if is_model_wrapper(runner.model) else runner.model
