"""What soft masks change in a training and in a test, and what they leave alone."""

import logging
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from mmengine.evaluator import Evaluator
from mmengine.runner.priority import get_priority
from mmseg.evaluation import IoUMetric
from torch import nn

from mmbirefnet.datasets import DichotomousDataset
from mmbirefnet.engine.hooks import LossScheduleHook, MaskKindHook
from mmbirefnet.evaluation import DichotomousMetric
from mmbirefnet.models.losses import BCELoss, IoULoss


@pytest.fixture
def dataset_of(tmp_path):
    """Ten masks, the given number of which are soft."""

    def make(soft: int) -> DichotomousDataset:
        root = tmp_path / str(soft)
        mask = np.zeros((64, 64), np.uint8)
        mask[16:48, 16:48] = 255
        for name in ('im', 'gt'):
            (root / name).mkdir(parents=True)
            for i in range(10):
                cv2.imwrite(str(root / name / f'{i}.png'), cv2.GaussianBlur(mask, (0, 0), 6) if i < soft else mask)
        return DichotomousDataset(str(root), pipeline=[])

    return make


def runner_of(dataset, model=None) -> SimpleNamespace:
    loader = SimpleNamespace(dataset=dataset)
    evaluator = Evaluator([DichotomousMetric(measures=['MAE']), IoUMetric()])
    return SimpleNamespace(
        model=model or nn.ModuleList([BCELoss(30.0), IoULoss(0.5)]),
        train_dataloader=loader,
        val_dataloader=loader,
        test_dataloader=loader,
        val_evaluator=evaluator,
        test_evaluator=evaluator,
        logger=logging.getLogger('test'),
    )


def after(hook, runner) -> tuple:
    """Weights and the metric's switch after training has begun and been validated."""
    hook.before_train(runner)
    hook.before_val(runner)
    return *(loss.loss_weight for loss in runner.model), runner.val_evaluator.metrics[0].soft_masks


@pytest.mark.parametrize(
    ('soft', 'kind', 'expected'),
    [
        (0, 'auto', (30, 0.5, False)),
        (1, 'auto', (30, 0, True)),
        (10, 'auto', (30, 0, True)),
        (10, 'hard', (30, 0.5, False)),
        (0, 'soft', (30, 0, True)),
    ],
)
def test_kinds(dataset_of, soft, kind, expected):
    assert after(MaskKindHook(kind), runner_of(dataset_of(soft))) == expected


def test_log_says_what_was_found(dataset_of, caplog):
    with caplog.at_level(logging.INFO):
        after(MaskKindHook(), runner_of(dataset_of(3)))
    assert [record.message for record in caplog.records] == [
        'MaskKindHook: 3 of 10 masks are gray over areas: soft masks, MAE and MSE are of the gray levels',
        'MaskKindHook: IoULoss is off',
    ]


def test_a_test_alone_looks_at_its_own_masks(dataset_of):
    for soft in (0, 10):
        runner = runner_of(dataset_of(soft))
        MaskKindHook().before_test(runner)
        assert runner.test_evaluator.metrics[0].soft_masks == (soft == 10)


def test_validation_follows_the_training_masks(dataset_of):
    runner, hook = runner_of(dataset_of(10)), MaskKindHook()
    hook.before_train(runner)
    runner.val_dataloader = SimpleNamespace(dataset=dataset_of(0))
    hook.before_val(runner)
    assert runner.val_evaluator.metrics[0].soft_masks


def test_before_the_schedule_of_the_losses():
    """That hook multiplies the weights that it finds."""
    assert get_priority(MaskKindHook.priority) < get_priority(LossScheduleHook.priority)


def test_no_loss_left(dataset_of):
    with pytest.raises(ValueError, match='the masks are soft, which IoULoss cannot learn from: add BCELoss'):
        MaskKindHook().before_train(runner_of(dataset_of(10), nn.ModuleList([IoULoss()])))


@pytest.mark.parametrize(
    ('options', 'message'), [(dict(kind='grey'), "kind='grey', must be one of auto"), (dict(images=0), 'images=0')]
)
def test_options(options, message):
    with pytest.raises(ValueError, match=message):
        MaskKindHook(**options)
