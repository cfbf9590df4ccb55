"""``ResumableTestLoop`` predicts the images without a written prediction, and rejects other metrics and data sets."""

import logging
import os
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmengine.evaluator import Evaluator
from mmengine.runner import Runner
from torch.utils.data import TensorDataset

from mmbirefnet.datasets import DichotomousDataset
from mmbirefnet.engine.loops import ResumableTestLoop

RUNNER = SimpleNamespace(
    seed=0,
    logger=logging.getLogger('test'),
    visualizer=SimpleNamespace(),
    build_dataloader=Runner.build_dataloader,
    build_evaluator=Evaluator,
)


def loader_of(dataset):
    return dict(batch_size=1, num_workers=0, dataset=dataset, sampler=dict(type='DefaultSampler', shuffle=False))


def metric(**options):
    return dict(type='mmbirefnet.DichotomousMetric', **options)


@pytest.mark.parametrize(
    'metrics',
    [
        metric(),
        [metric(output_dir='out'), metric(output_dir='out')],
        [metric(output_dir='out'), dict(type='mmseg.IoUMetric')],
        dict(type='mmseg.IoUMetric', output_dir='out'),
        [],
    ],
    ids=['no output_dir', 'two', 'another beside it', 'another', 'none'],
)
def test_needs_one_dichotomous_metric_that_writes(metrics, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match='--resume needs mmbirefnet.DichotomousMetric as the only metric, and --out'):
        ResumableTestLoop(RUNNER, loader_of(TensorDataset(torch.zeros(2))), metrics)


def test_needs_a_dichotomous_dataset(tmp_path):
    with pytest.raises(ValueError, match='--resume needs a data set of mmbirefnet, not TensorDataset'):
        ResumableTestLoop(RUNNER, loader_of(TensorDataset(torch.zeros(2))), metric(output_dir=str(tmp_path)))


@pytest.mark.parametrize(('newer_than', 'left'), [(0, [0, 2]), (10**9, [0, 2]), (10**9 + 1, [0, 1, 2])])
def test_images_without_a_recent_prediction_are_left(tmp_path, newer_than, left):
    for folder in ('A/im', 'A/gt', 'out'):
        (tmp_path / folder).mkdir(parents=True)
    for name in 'abc':
        for folder in ('A/im', 'A/gt'):
            cv2.imwrite(str(tmp_path / folder / f'{name}.png'), np.zeros((4, 4), np.uint8))
    cv2.imwrite(str(tmp_path / 'out/b.png'), np.full((4, 4), 51, np.uint8))
    os.utime(tmp_path / 'out/b.png', ns=(10**9, 10**9))
    (tmp_path / 'out/c.png').write_bytes(b'damaged')
    dataset = DichotomousDataset(data_root=str(tmp_path), sets='A')
    evaluator = metric(output_dir=str(tmp_path / 'out'), measures=['MAE'], soft_masks=True)
    loop = ResumableTestLoop(RUNNER, loader_of(dataset), evaluator, newer_than)
    assert list(loop.dataloader.sampler) == left
    if left == [0, 2]:  # the written prediction is scored: level 51 against an empty mask
        assert loop.evaluator.metrics[0].evaluate(1) == pytest.approx({'MAE': 0.2})
