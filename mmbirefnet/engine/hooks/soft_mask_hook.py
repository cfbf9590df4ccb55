"""Choose losses and metrics for soft or hard masks."""

from __future__ import annotations

from collections.abc import Sequence

from mmengine.dataset import BaseDataset
from mmengine.evaluator import Evaluator
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmbirefnet.datasets.soft_masks import are_soft, count_soft
from mmbirefnet.registry import HOOKS
from mmbirefnet.utils.deprecation import former_argument


@HOOKS.register_module()
class SoftMaskHook(Hook):
    """Adapts losses and metrics to soft masks (alpha mattes), and logs which kind of masks it found.

    If the masks are soft, region losses are switched off, because they favor black and white predictions, and
    :class:`~mmbirefnet.evaluation.DichotomousMetric` computes ``MAE``, ``MSE`` and the matting errors from the gray
    levels (``soft_masks=True``). Hard masks change nothing. The masks themselves are not changed.

    Args:
        masks: ``'soft'``, ``'hard'``, or ``'auto'``: soft if
            :func:`~mmbirefnet.datasets.soft_masks.is_soft` is true for at least a tenth of the training masks, or of
            the test masks in a test without training.
        region_losses: Class names of the losses that are switched off for soft masks.
        images: Number of masks to inspect, spread evenly over the data set.
        kind: Former name of ``masks``.

    Raises:
        ValueError: If an option is invalid, or if soft masks leave the model without a loss.
    """

    priority = 'HIGH'  # LossScheduleHook remembers the weights that this hook sets

    def __init__(
        self,
        masks: str = 'auto',
        region_losses: Sequence[str] = ('IoULoss', 'PatchIoULoss', 'StructureLoss'),
        images: int = 64,
        kind: str | None = None,
    ) -> None:
        masks = former_argument('kind', kind, 'masks', masks)
        if masks not in ('auto', 'soft', 'hard'):
            raise ValueError(f'SoftMaskHook: masks={masks!r}, must be auto, soft or hard')
        if images < 1:
            raise ValueError(f'SoftMaskHook: images={images}, must be 1 or greater')
        self.region_losses = frozenset(region_losses)
        self.images = images
        self.soft = None if masks == 'auto' else masks == 'soft'

    def before_train(self, runner: Runner) -> None:
        """Switch off the region losses if the training masks are soft."""
        if not self._is_soft(runner, runner.train_dataloader.dataset):
            return
        losses = [module for module in runner.model.modules() if getattr(module, 'loss_weight', 0)]
        off = [loss for loss in losses if type(loss).__name__ in self.region_losses]
        if len(off) == len(losses):
            names = ', '.join(sorted({type(loss).__name__ for loss in off}))
            raise ValueError(
                f'the masks are soft, and all losses of the model ({names}) are for hard masks. '
                'Fix: add BCELoss to loss_decode'
            )
        for loss in off:
            runner.logger.info(f'SoftMaskHook: {type(loss).__name__} is off')
            loss.loss_weight = 0.0

    def before_val(self, runner: Runner) -> None:
        """Set ``soft_masks`` of the metrics."""
        self._set_metrics(runner, runner.val_dataloader.dataset, runner.val_evaluator)

    def before_test(self, runner: Runner) -> None:
        """Set ``soft_masks`` of the metrics."""
        self._set_metrics(runner, runner.test_dataloader.dataset, runner.test_evaluator)

    def _set_metrics(self, runner: Runner, dataset: BaseDataset, evaluator: Evaluator) -> None:
        if self._is_soft(runner, dataset):
            for metric in evaluator.metrics:
                if hasattr(metric, 'soft_masks'):
                    metric.soft_masks = True

    def _is_soft(self, runner: Runner, dataset: BaseDataset) -> bool:
        if self.soft is None:
            soft, seen = counts = count_soft(dataset, self.images)
            self.soft = are_soft(counts)
            runner.logger.info(
                f'SoftMaskHook: {soft} of {seen} masks are gray over areas: '
                + ('soft masks, MAE and MSE are of the gray levels' if self.soft else 'hard masks')
            )
        return self.soft
