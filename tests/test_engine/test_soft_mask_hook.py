"""Losses and metrics with soft and with hard masks."""

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
from mmbirefnet.engine.hooks import LossScheduleHook, SoftMaskHook
from mmbirefnet.evaluation import DichotomousMetric
from mmbirefnet.models.losses import BCELoss, IoULoss
from mmbirefnet.registry import HOOKS


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
    """Loss weights, and ``soft_masks`` of the metric, after the start of a training and of a validation."""
    hook.before_train(runner)
    hook.before_val(runner)
    return *(loss.loss_weight for loss in runner.model), runner.val_evaluator.metrics[0].soft_masks


@pytest.mark.parametrize(
    ('soft', 'masks', 'expected'),
    [
        (0, 'auto', (30, 0.5, False)),
        (1, 'auto', (30, 0, True)),
        (10, 'auto', (30, 0, True)),
        (10, 'hard', (30, 0.5, False)),
        (0, 'soft', (30, 0, True)),
    ],
)
def test_losses_and_metric(dataset_of, soft, masks, expected):
    assert after(SoftMaskHook(masks), runner_of(dataset_of(soft))) == expected


def test_log_contains_the_counts(dataset_of, caplog):
    with caplog.at_level(logging.INFO):
        after(SoftMaskHook(), runner_of(dataset_of(3)))
    assert [record.message for record in caplog.records] == [
        'SoftMaskHook: 3 of 10 masks are gray over areas: soft masks, MAE and MSE are of the gray levels',
        'SoftMaskHook: IoULoss is off',
    ]


def test_a_test_without_training_inspects_the_test_masks(dataset_of):
    for soft in (0, 10):
        runner = runner_of(dataset_of(soft))
        SoftMaskHook().before_test(runner)
        assert runner.test_evaluator.metrics[0].soft_masks == (soft == 10)


def test_validation_uses_the_result_for_the_training_masks(dataset_of):
    runner, hook = runner_of(dataset_of(10)), SoftMaskHook()
    hook.before_train(runner)
    runner.val_dataloader = SimpleNamespace(dataset=dataset_of(0))
    hook.before_val(runner)
    assert runner.val_evaluator.metrics[0].soft_masks


def test_runs_before_the_loss_schedule():
    """LossScheduleHook multiplies the weights that it finds."""
    assert get_priority(SoftMaskHook.priority) < get_priority(LossScheduleHook.priority)


def test_only_losses_for_hard_masks_is_an_error(dataset_of):
    with pytest.raises(ValueError, match=r'all losses of the model \(IoULoss\) are for hard masks. Fix: add BCELoss'):
        SoftMaskHook().before_train(runner_of(dataset_of(10), nn.ModuleList([IoULoss()])))


@pytest.mark.parametrize(
    ('options', 'message'), [(dict(masks='grey'), "masks='grey', must be auto"), (dict(images=0), 'images=0')]
)
def test_options(options, message):
    with pytest.raises(ValueError, match=message):
        SoftMaskHook(**options)


def test_former_names():
    with pytest.deprecated_call(match='SoftMaskHook'):
        hook = HOOKS.build(dict(type='mmbirefnet.MaskKindHook'))
    assert type(hook) is SoftMaskHook
    with pytest.deprecated_call(match='masks='):
        assert SoftMaskHook(kind='soft').soft
