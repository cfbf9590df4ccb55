"""Losses and scores that suit the masks of the data."""

from __future__ import annotations

from collections.abc import Sequence

from mmengine.dataset import BaseDataset
from mmengine.evaluator import Evaluator
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmbirefnet.datasets.soft_masks import are_soft, count_soft
from mmbirefnet.registry import HOOKS

KINDS = ('auto', 'soft', 'hard')


@HOOKS.register_module()
class MaskKindHook(Hook):
    """Tells soft masks (mattes) from hard ones and says so in the log.

    Masks are trained on as they are, whichever kind they are. If they are soft, losses that compare regions are
    switched off, since they are least where a map is black and white, and
    :class:`~mmbirefnet.evaluation.DichotomousMetric` computes ``MAE`` and ``MSE`` of the gray levels, and the errors of
    mattes (``soft_masks=True``). Hard masks change nothing.

    Args:
        kind: ``'soft'``, ``'hard'``, or ``'auto'`` for what
            :func:`~mmbirefnet.datasets.soft_masks.is_soft` says of a tenth of the training masks or more; in a test
            without training, of the test set's.
        region_losses: Class names of the losses that soft masks are not for.
        images: Masks to look at, spread evenly over the data set.

    Raises:
        ValueError: If an option has no meaning, or if soft masks leave the model without a loss.
    """

    priority = 'HIGH'  # LossScheduleHook remembers the weights that this hook sets

    def __init__(
        self,
        kind: str = 'auto',
        region_losses: Sequence[str] = ('IoULoss', 'PatchIoULoss', 'StructureLoss'),
        images: int = 64,
    ) -> None:
        if kind not in KINDS:
            raise ValueError(f'MaskKindHook: kind={kind!r}, must be one of {", ".join(KINDS)}')
        if images < 1:
            raise ValueError(f'MaskKindHook: images={images}, must be 1 or greater')
        self.region_losses = frozenset(region_losses)
        self.images = images
        self.soft = None if kind == 'auto' else kind == 'soft'

    def before_train(self, runner: Runner) -> None:
        """Switch off what soft masks are not for."""
        if not self._is_soft(runner, runner.train_dataloader.dataset):
            return
        losses = [module for module in runner.model.modules() if getattr(module, 'loss_weight', 0)]
        off = [loss for loss in losses if type(loss).__name__ in self.region_losses]
        if len(off) == len(losses):
            names = ', '.join(sorted({type(loss).__name__ for loss in off}))
            raise ValueError(f'the masks are soft, which {names} cannot learn from: add BCELoss to loss_decode')
        for loss in off:
            runner.logger.info(f'MaskKindHook: {type(loss).__name__} is off')
            loss.loss_weight = 0.0

    def before_val(self, runner: Runner) -> None:
        """Tell the metric."""
        self._tell(runner, runner.val_dataloader.dataset, runner.val_evaluator)

    def before_test(self, runner: Runner) -> None:
        """Tell the metric."""
        self._tell(runner, runner.test_dataloader.dataset, runner.test_evaluator)

    def _tell(self, runner: Runner, dataset: BaseDataset, evaluator: Evaluator) -> None:
        if self._is_soft(runner, dataset):
            for metric in evaluator.metrics:
                if hasattr(metric, 'soft_masks'):
                    metric.soft_masks = True

    def _is_soft(self, runner: Runner, dataset: BaseDataset) -> bool:
        if self.soft is None:
            soft, seen = counts = count_soft(dataset, self.images)
            self.soft = are_soft(counts)
            runner.logger.info(
                f'MaskKindHook: {soft} of {seen} masks are gray over areas: '
                + ('soft masks, MAE and MSE are of the gray levels' if self.soft else 'hard masks')
            )
        return self.soft
