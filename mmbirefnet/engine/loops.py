"""Loops for training and testing that resume exactly where they stopped, also in the middle of an epoch."""

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
"""Key of the message hub for the current ``epoch``, its first iteration ``began`` and its ``length``."""
VALIDATED_INFO = 'last_validation'
"""Key of the message hub for the number of epochs before the last validation."""
_EPOCH, _ITERATION = 1, 2  # streams of random numbers, besides that of the samples


@LOOPS.register_module()
class ResumableTrainLoop(EpochBasedTrainLoop):
    """mmengine's ``EpochBasedTrainLoop`` that resumes exactly.

    - Order and augmentations of the data depend only on (seed, epoch, index of the sample).
    - Random numbers of the model (drop path, dropout) depend only on (seed, iteration, rank): all generators of the
      process are seeded before each iteration.
    - A checkpoint from the middle of an epoch continues with the next batch; mmengine would restart the epoch.
    - A validation that was due when the run stopped runs after resuming.

    Args:
        runner, dataloader, max_epochs, kwargs: See :class:`mmengine.runner.EpochBasedTrainLoop`.
        unreadable: Action for damaged files: ``'stop'`` raises the error, which names the file; ``'skip'`` uses another
            sample, logs the error, and logs the count at the end of each epoch.

    Raises:
        ValueError: If ``unreadable`` is unknown, or, when the training starts, if the checkpoint is from the middle of
            an epoch of another length.
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
        """Run the training."""
        self.runner.call_hook('before_train')
        self._seed = broadcasted(self.runner.seed)  # the seed of a resumed run, or one that differs between ranks
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
        """Train the remaining batches of the epoch."""
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
        """Train on the ``idx``-th batch of the epoch."""
        for error in unreadable_in(data_batch):
            self._unreadable += 1
            self.runner.logger.error(f'replaced by another image: {error}')
        seed_generators(self._seed, _ITERATION, self._iter, get_rank())
        super().run_iter(idx, data_batch)

    def _batches_done(self) -> int:
        """Number of batches of the current epoch that were done before resuming."""
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
                'that depend on iterations are shifted'
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
    """Broadcast a number of rank 0."""
    data = torch.tensor(number)
    broadcast(data)
    return int(data)


@LOOPS.register_module()
class ResumableTestLoop(TestLoop):
    """mmengine's ``TestLoop`` that continues an interrupted test.

    Predictions that an earlier run wrote are scored from their files, which contain all that the metric compares, so
    the scores equal those of an uninterrupted test. The processes share the other images.

    Args:
        runner: The runner.
        dataloader: Config of the data loader, whose data set is a :class:`~mmbirefnet.datasets.DichotomousDataset`.
        evaluator: Config of one :class:`~mmbirefnet.evaluation.DichotomousMetric` with ``output_dir``.
        newer_than: Time in nanoseconds; older files are ignored.
        fp16: See ``TestLoop``.

    Raises:
        ValueError: If data set or metric are of another class, or the metric has no ``output_dir``.
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
