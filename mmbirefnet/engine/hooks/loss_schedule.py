"""Loss weights in the last epochs of a training."""

from __future__ import annotations

from mmengine.hooks import Hook
from mmengine.runner import IterBasedTrainLoop, Runner
from torch import nn

from mmbirefnet.registry import HOOKS


@HOOKS.register_module()
class LossScheduleHook(Hook):
    """Multiply loss weights by ``factor ** k`` in the ``k``-th of the last epochs, k = 1, 2, ...

    This is the last phase of the training of BiRefNet. The reference implementation multiplies the weights in place at
    the start of each of these epochs. Here they depend only on the epoch, so a resumed training has the weights of an
    uninterrupted one. After the training, the losses have their configured weights again.

    Args:
        last_epochs: Number of these epochs. If the training is not longer, they are all its epochs, which is logged.
        factors: Factor per epoch by class name of the loss, such as ``dict(BCELoss=0.0, IoULoss=0.5)``. It applies to
            all modules of the model with this class name and a ``loss_weight``.

    Raises:
        ValueError: If an argument is negative or, when the training starts, if a factor matches no loss.
        TypeError: If the training counts iterations instead of epochs.
    """

    def __init__(self, last_epochs: int, factors: dict[str, float]) -> None:
        if last_epochs < 0:
            raise ValueError(f'last_epochs must not be negative, got {last_epochs}')
        for name, factor in factors.items():
            if factor < 0:
                raise ValueError(f'the factor of {name} must not be negative, got {factor}')
        self.last_epochs = last_epochs
        self.factors = factors
        self._base_weights: dict[str, list[tuple[nn.Module, float]]] = {}

    def before_train(self, runner: Runner) -> None:
        """Find the losses and store their weights."""
        if isinstance(runner.train_loop, IterBasedTrainLoop):
            raise TypeError(
                'LossScheduleHook counts epochs: it needs train_cfg.type=EpochBasedTrainLoop, '
                f'got {type(runner.train_loop).__name__}'
            )
        losses = [module for module in runner.model.modules() if hasattr(module, 'loss_weight')]
        for name in self.factors:
            matches = [(loss, loss.loss_weight) for loss in losses if type(loss).__name__ == name]
            if not matches:
                present = sorted({type(loss).__name__ for loss in losses})
                raise ValueError(f'LossScheduleHook: no loss {name} in the model, which has {", ".join(present)}')
            self._base_weights[name] = matches
        if runner.max_epochs <= self.last_epochs:
            runner.logger.warning(
                f'LossScheduleHook: all {runner.max_epochs} epochs are among the last {self.last_epochs}, '
                'so the factors apply from the first one'
            )

    def before_train_epoch(self, runner: Runner) -> None:
        """Set the weights of this epoch."""
        k = runner.epoch + 1 - max(runner.max_epochs - self.last_epochs, 0)
        self._set_weights(runner, {name: factor**k if k > 0 else 1 for name, factor in self.factors.items()})

    def after_train(self, runner: Runner) -> None:
        """Restore the configured weights of the losses."""
        self._set_weights(runner, dict.fromkeys(self.factors, 1))

    def _set_weights(self, runner: Runner, scales: dict[str, float]) -> None:
        for name, scale in scales.items():
            for loss, base in self._base_weights[name]:
                if loss.loss_weight != base * scale:
                    runner.logger.info(f'Epoch {runner.epoch + 1}: weight of {name} set to {base * scale:.6g}')
                    loss.loss_weight = base * scale
