"""A test that goes on where an earlier one stopped."""

from __future__ import annotations

from mmengine.dist import get_dist_info
from mmengine.runner import Runner, TestLoop

from mmbirefnet.datasets import DichotomousDataset
from mmbirefnet.evaluation import DichotomousMetric
from mmbirefnet.registry import LOOPS


@LOOPS.register_module()
class ResumableTestLoop(TestLoop):
    """mmengine's ``TestLoop``, which predicts only images whose maps an earlier run did not write.

    The others are scored from their files, which hold all that the metric compares: scores are those of a test without
    a break. The rest is shared among the processes.

    Args:
        runner: The runner.
        dataloader: Config of the data loader, whose data set is a :class:`~mmbirefnet.datasets.DichotomousDataset`.
        evaluator: Config of one :class:`~mmbirefnet.evaluation.DichotomousMetric` with ``output_dir``.
        newer_than: Maps count that were last changed at this time or later, in nanoseconds.
        fp16: As of ``TestLoop``.

    Raises:
        ValueError: If the data set, the metric or its options are others.
    """

    def __init__(
        self,
        runner: Runner,
        dataloader: dict,
        evaluator: dict | list,
        newer_than: int = 0,
        fp16: bool = False,
    ) -> None:
        loader = runner.build_dataloader(dataloader, seed=runner.seed)
        evaluator = runner.build_evaluator(evaluator)
        metrics = evaluator.metrics
        if len(metrics) != 1 or not isinstance(metrics[0], DichotomousMetric) or metrics[0].output_dir is None:
            raise ValueError('--resume needs mmbirefnet.DichotomousMetric as the only metric, and --out')
        if not isinstance(loader.dataset, DichotomousDataset):
            raise ValueError(f'--resume needs a data set of mmbirefnet, not {type(loader.dataset).__name__}')
        evaluator.dataset_meta = loader.dataset.metainfo
        missing = metrics[0].take_written(loader.dataset, newer_than)
        runner.logger.info(f'ResumableTestLoop: {len(missing)} of {len(loader.dataset)} images are left to predict')
        rank, size = get_dist_info()
        options = dict(batch_sampler=None, sampler=missing[rank::size], dataset=loader.dataset)
        super().__init__(runner, runner.build_dataloader(dict(dataloader, **options)), evaluator, fp16)
