"""The examples of CONTRIBUTING.md do what it says of them."""

import math
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from doc_blocks import blocks
from mmengine.config import Config

from mmbirefnet.evaluation.functional.pair import Pair
from mmbirefnet.evaluation.functional.registry import MEASURES
from mmbirefnet.evaluation.report import TableRow, to_latex
from mmbirefnet.registry import DATASETS, METRICS, MODELS

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / 'CONTRIBUTING.md').read_text('utf-8')


@pytest.fixture(scope='module')
def examples():
    """The names that the code blocks define."""
    names = {}
    for block in blocks('CONTRIBUTING.md', 'parts'):
        exec(block, names)
    yield names
    del MEASURES['BER']


@pytest.fixture
def model(examples):
    """BiRefNet with the backbone and the loss of the examples' config lines."""
    cfg = Config.fromfile(ROOT / 'configs/_base_/models/birefnet_swin-t.py')
    for block in blocks('CONTRIBUTING.md', 'model'):
        names = {}
        exec(block, names)
        cfg.merge_from_dict({'model': names['model']})
    return MODELS.build(cfg.model)


def test_config_lines(model):
    assert type(model.backbone).__name__ == 'StridedNet'
    assert [type(loss).__name__ for loss in model.decode_head.loss_decode] == ['FocalLoss']
    assert model.eval()(torch.zeros(1, 3, 64, 96), mode='tensor').shape == (1, 1, 64, 96)


def test_loss(examples):
    loss = MODELS.build(dict(type='mmbirefnet.FocalLoss', loss_weight=2.0))
    logits = torch.tensor([0.0, math.log(3)]).view(1, 1, 1, 2)  # p = 1/2 and 3/4
    value = loss(logits, torch.ones(1, 1, 1, 2))
    assert value.item() == pytest.approx(math.log(2) / 4 + math.log(4 / 3) / 16)


def test_backbone(examples):
    maps = MODELS.build(dict(type='mmbirefnet.StridedNet'))(torch.zeros(1, 3, 64, 96))
    assert [tuple(each.shape[1:]) for each in maps] == [(32, 16, 24), (64, 8, 12), (128, 4, 6), (256, 2, 3)]


def test_data_set(examples, tmp_path):
    for name in ('im', 'gt'):
        folder = tmp_path / 'ThinObject5K/train' / name
        folder.mkdir(parents=True)
        cv2.imwrite(str(folder / 'bicycle.png'), np.zeros((4, 4), np.uint8))
    dataset = DATASETS.build(
        dict(type='mmbirefnet.ThinObjectDataset', data_root=str(tmp_path), sets='train', pipeline=[])
    )
    assert len(dataset) == 1
    assert dataset.get_data_info(0)['seg_map_path'].endswith('ThinObject5K/train/gt/bicycle.png')
    names = {}
    exec(*blocks('CONTRIBUTING.md', 'dataset'), names)
    example = names['train_dataloader']['dataset']
    assert len(DATASETS.build(dict(example, data_root=str(tmp_path), pipeline=[]))) == 1


def test_metric(examples):
    score_map = np.array([[0, 127, 128, 255], [0, 0, 0, 200]], np.uint8)
    mask = np.array([[0, 1, 1, 1], [0, 0, 0, 0]], bool)
    score = pytest.approx((1 / 3 + 1 / 5) / 2)
    assert examples['balanced_error_rate'](Pair(score_map, mask)) == score
    names = {}
    exec(*blocks('CONTRIBUTING.md', 'evaluator'), names)
    metric = METRICS.build(names['test_evaluator'])
    probabilities = ((torch.from_numpy(score_map)[None] + 0.5) / 255).clamp(max=1)
    metric.process(None, [dict(seg_logits=dict(data=probabilities), gt_sem_seg=dict(data=mask[None]))])
    scores = metric.evaluate(1)
    assert list(scores) == ['MAE', 'BER']
    assert scores['BER'] == score
    table = to_latex([TableRow('A', 'ours', scores)], list(scores))
    assert r'$BER$$\downarrow$' in table
    assert ' & 0.267 ' in table


def test_names_exist_that_the_text_refers_to():
    for path in re.findall(r'`((?:tools|tests|\.ci)/[\w/.]+)`', TEXT):
        assert (ROOT / path).exists(), path
