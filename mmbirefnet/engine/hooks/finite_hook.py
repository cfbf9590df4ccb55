"""Check that losses and gradients are finite."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from mmengine.dist import all_gather_object, all_reduce, get_rank
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from torch import Tensor, nn

from mmbirefnet.registry import HOOKS

_SKIPPED = 'skipped_steps'
_SMALLEST_SCALE = 2.0**-16


@HOOKS.register_module()
class FiniteHook(Hook):
    """Prevent steps with a loss or gradient that is NaN or infinite, and report their cause.

    Such a step is skipped on all ranks, so parameters and optimizer state do not change. The report names the losses,
    the parameters with such gradients, and the image files of the batch.

    Under loss scaling (mmengine's ``AmpOptimWrapper``), gradients overflow occasionally until the scale fits. The
    scaler handles these, so they are ignored unless the scale is below 2^-16.

    Args:
        action: ``'stop'`` raises ``FloatingPointError``; ``'skip'`` skips the step with a warning.
        dump: Whether to write the batch of this rank to ``<work_dir>/nonfinite/iter_<iteration>_rank<rank>.pth``, with
            ``inputs``, ``masks``, ``files`` and ``losses``; ``torch.load`` reads it with ``weights_only=True``.
        max_skips: Number of skipped steps in a row after which the run stops.

    Raises:
        ValueError: If ``action`` is unknown.
        TypeError: If several optimizers train the model, when the training starts.
        FloatingPointError: If a step is not finite, in training.
    """

    priority = 'HIGH'  # before hooks that save or average the result

    def __init__(self, action: str = 'stop', dump: bool = False, max_skips: int = 50) -> None:
        if action not in ('stop', 'skip'):
            raise ValueError(f"FiniteHook: action must be 'stop' or 'skip', got {action!r}")
        self.action = action
        self.dump = dump
        self.max_skips = max_skips
        self._in_a_row = 0
        self._forget()

    def before_train(self, runner: Runner) -> None:
        """Wrap the update of the parameters."""
        wrapper = runner.optim_wrapper
        if not isinstance(wrapper, OptimWrapper):
            raise TypeError(f'FiniteHook watches one optimizer, got {type(wrapper).__name__}')
        update_params, step = wrapper.update_params, wrapper.step
        scaler = getattr(wrapper, 'loss_scaler', None)
        self._scaler = scaler if scaler is not None and scaler.is_enabled() else None

        def watched_update(loss: Tensor, *args, **kwargs) -> None:
            self._finite = self._finite & loss.detach().isfinite()
            update_params(loss, *args, **kwargs)

        def watched_step(**kwargs) -> None:
            finite = self._finite
            if self._scaler is None:
                finite = finite & gradients_are_finite(runner.model)
            finite = torch.as_tensor(finite, dtype=torch.int32).reshape(())
            all_reduce(finite, op='min')
            if finite:
                step(**kwargs)
                self._finite, self._in_a_row = True, 0
            else:
                self._refused = True
                self._parameters = [name for name, p in _with_gradient(runner.model) if not p.grad.isfinite().all()]

        watched_step._with_counter = True  # as mmengine's schedules have marked the one inside
        self._unwatched = update_params, step
        wrapper.update_params, wrapper.step = watched_update, watched_step

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict[str, Tensor] | None = None
    ) -> None:
        """Report a skipped step."""
        losses = {name: torch.as_tensor(v).item() for name, v in (outputs or {}).items() if 'loss' in name}
        wrong = [f'{name}={value}' for name, value in losses.items() if not _is_finite(value)]
        if wrong:  # the gradients of the batch may be accumulated with those of others
            self._losses.append(f'{", ".join(wrong)} for {_names(files_of(data_batch))}')
        if self._scaler is not None and self._scaler.get_scale() < _SMALLEST_SCALE:
            self._refused, self._losses = True, [*self._losses, f'loss scale {self._scaler.get_scale()}']
        if self.dump and (wrong or self._refused):
            self._dump(runner, data_batch, losses)
        if not self._refused:
            return
        problem = f'losses {"; ".join(self._losses)}' if self._losses else 'losses finite'
        problem += f'; gradients not finite: {_names(self._parameters)}' if self._parameters else '; gradients finite'
        if not self._losses:
            problem += f'; batch {_names(files_of(data_batch))}'
        problems = all_gather_object(problem)
        self._forget()
        self._in_a_row += 1
        skipped = runner.message_hub.get_info(_SKIPPED, 0) + 1
        runner.message_hub.update_info(_SKIPPED, skipped)
        where = f'iteration {runner.iter + 1}, epoch {runner.epoch + 1}: step not taken, '
        if len(problems) > 1:
            problem = ' | '.join(f'rank {rank}: {each}' for rank, each in enumerate(problems))
        if self.action == 'stop':
            raise FloatingPointError(f'{where}{problem}')
        runner.logger.warning(f'{where}{problem} ({skipped} skipped so far)')
        if self._in_a_row >= self.max_skips:
            raise FloatingPointError(f'{self._in_a_row} steps in a row were not finite; the last: {problem}')

    def after_train(self, runner: Runner) -> None:
        """Restore the optimizer wrapper."""
        runner.optim_wrapper.update_params, runner.optim_wrapper.step = self._unwatched

    def _forget(self) -> None:
        self._finite: bool | Tensor = True
        self._refused = False
        self._losses: list[str] = []
        self._parameters: list[str] = []

    def _dump(self, runner: Runner, batch: Any, losses: dict[str, float]) -> None:
        path = Path(runner.work_dir, 'nonfinite', f'iter_{runner.iter + 1}_rank{get_rank()}.pth')
        path.parent.mkdir(exist_ok=True)
        samples = batch['data_samples']
        content = dict(
            inputs=list(batch['inputs']),
            masks=[sample.gt_sem_seg.data for sample in samples if 'gt_sem_seg' in sample],
            files=files_of(batch),
            losses=losses,
        )
        torch.save(content, path)


def gradients_are_finite(model: nn.Module) -> Tensor:
    """Whether all gradients are finite, as a boolean scalar on their device."""
    gradients = [parameter.grad for _, parameter in _with_gradient(model)]
    if not gradients:
        return torch.tensor(True)
    # Maxima do not overflow, unlike sums; _foreach_norm computes all of them with few kernels.
    return torch.stack(torch._foreach_norm(gradients, float('inf'))).isfinite().all()


def files_of(batch: Any) -> list[str]:
    """Image files of a batch, as far as its samples have paths."""
    samples = batch.get('data_samples', ()) if isinstance(batch, dict) else ()
    return [str(sample.metainfo.get('img_path', 'unnamed')) for sample in samples]


def _with_gradient(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, parameter) for name, parameter in model.named_parameters() if parameter.grad is not None]


def _is_finite(value: float) -> bool:
    return abs(value) < float('inf')


def _names(names: list[str], limit: int = 8) -> str:
    more = f' and {len(names) - limit} more' if len(names) > limit else ''
    return f'{", ".join(names[:limit])}{more}' if names else 'unnamed files'
