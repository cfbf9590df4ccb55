"""Training and testing that go on exactly where they stopped; training in the middle of an epoch too."""

from __future__ import annotations

import torch
from mmengine.dist import all_reduce, broadcast, get_dist_info, get_rank
from mmengine.runner import EpochBasedTrainLoop, Runner, TestLoop
from torch import nn
from torch.utils.data import DataLoader

from mmbirefnet.datasets import DichotomousDataset
from mmbirefnet.engine.resume.seeded_data import seed_generators, with_seeds
from mmbirefnet.engine.resume.unreadable import SkipUnreadable, unreadable_in
from mmbirefnet.evaluation import DichotomousMetric
from mmbirefnet.registry import LOOPS

EPOCH_INFO = 'current_epoch'
"""Message hub: ``epoch`` that began last, iteration it ``began`` with, and its ``length``, saved in checkpoints."""
VALIDATED_INFO = 'last_validation'
"""Message hub: number of epochs after which the last validation was, saved in checkpoints."""
_EPOCH, _ITERATION = 1, 2  # streams of random numbers, beside that of the samples


@LOOPS.register_module()
class ResumableTrainLoop(EpochBasedTrainLoop):
    """mmengine's ``EpochBasedTrainLoop``, whose state is in its checkpoints whole.

    - Order and augmentations of the data are functions of (seed, epoch, index of the sample).
    - What the model draws (drop path, dropout) is a function of (seed, iteration, rank): all generators of the process
      are seeded before each iteration.
    - A checkpoint of an iteration goes on with the next batch of its epoch; mmengine would restart the epoch.
    - A validation that was due when the run stopped is made up for.

    Args:
        runner, dataloader, max_epochs, **kwargs: See :class:`mmengine.runner.EpochBasedTrainLoop`.
        unreadable: What to do about damaged files: ``'stop'`` with the error, which names the file, or ``'skip'``:
            another sample takes its place, the error is logged, and epochs end with the count.

    Raises:
        ValueError: If ``unreadable`` is something else or, when it starts, if the checkpoint is from the middle of an
            epoch of another length.
    """

    def __init__(
        self, runner: Runner, dataloader: DataLoader | dict, max_epochs: int, unreadable: str = 'stop', **kwargs
    ) -> None:
        if unreadable not in ('stop', 'skip'):
            raise ValueError(f"train_cfg.unreadable must be 'stop' or 'skip', got {unreadable!r}")
        if isinstance(dataloader, dict):
            diff_rank_seed = runner._randomness_cfg.get('diff_rank_seed', False)
            dataloader = runner.build_dataloader(dataloader, seed=runner.seed, diff_rank_seed=diff_rank_seed)
        dataset = dataloader.dataset if unreadable == 'stop' else SkipUnreadable(dataloader.dataset)
        super().__init__(runner, with_seeds(dataloader, dataset), max_epochs, **kwargs)
        self._seed = self._start = self._unreadable = 0

    def run(self) -> nn.Module:
        """Train to the end."""
        self.runner.call_hook('before_train')
        self._seed = broadcasted(self.runner.seed)  # of a resumed run, or different on each rank
        if self._iter > 0:
            self._start = self._batches_done()
            self._decide_current_val_interval()
            if self._start == 0 and self.runner.message_hub.get_info(VALIDATED_INFO) != self._epoch:
                self._validate_if_due()
        while self._epoch < self._max_epochs and not self.stop_training:
            self.run_epoch()
            self._decide_current_val_interval()
            self._validate_if_due()
        self.runner.call_hook('after_train')
        return self.runner.model

    def run_epoch(self) -> None:
        """Train for what is left of the epoch."""
        info = dict(epoch=self._epoch, began=self._iter - self._start, length=len(self.dataloader))
        self.runner.message_hub.update_info(EPOCH_INFO, info)
        seed_generators(self._seed, _EPOCH, self._epoch)
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        self.dataloader.batch_sampler.go_to(self._seed, self._epoch, self._start)
        for idx, data_batch in enumerate(self.dataloader, self._start):
            self.run_iter(idx, data_batch)
        self._start = 0
        self._report_unreadable()
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1

    def run_iter(self, idx: int, data_batch: dict) -> None:
        """Train on one batch, the ``idx``-th of its epoch."""
        for error in unreadable_in(data_batch):
            self._unreadable += 1
            self.runner.logger.error(f'left out, another image in its place: {error}')
        seed_generators(self._seed, _ITERATION, self._iter, get_rank())
        super().run_iter(idx, data_batch)

    def _batches_done(self) -> int:
        """Batches of the current epoch that a resumed run had done."""
        length = len(self.dataloader)
        info = self.runner.message_hub.get_info(EPOCH_INFO)
        if info is None:  # a checkpoint of mmengine's loop
            info = dict(epoch=self._epoch, began=self._epoch * length, length=length)
        done = self._iter - info['began'] if info['epoch'] == self._epoch else 0
        if not 0 <= done <= length or (done > 0 and info['length'] != length):
            raise ValueError(
                f'the checkpoint is from batch {done} of an epoch of {info["length"]}, which now has {length}: resume '
                'with the same data, batch size and number of processes, or from a checkpoint of the end of an epoch'
            )
        if info['length'] != length:
            self.runner.logger.warning(
                f'an epoch has {length} iterations now, {info["length"]} before the run was resumed; learning rates '
                'that follow iterations are shifted'
            )
        return done

    def _validate_if_due(self) -> None:
        due = self._epoch % self.val_interval == 0 or self._epoch == self._max_epochs
        if self.runner.val_loop is not None and self._epoch >= self.val_begin and due:
            self.runner.val_loop.run()

    def _report_unreadable(self) -> None:
        if isinstance(self.dataloader.dataset.dataset, SkipUnreadable):
            count = torch.tensor(self._unreadable)
            all_reduce(count)
            self.runner.logger.warning(f'Epoch {self._epoch + 1}: {int(count)} unreadable images replaced')
            self._unreadable = 0


def broadcasted(number: int) -> int:
    """Rank 0's number."""
    data = torch.tensor(number)
    broadcast(data)
    return int(data)


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
