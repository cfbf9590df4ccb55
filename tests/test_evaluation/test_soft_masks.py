"""Matting: mean errors of soft masks."""

import numpy as np
import pytest
import torch
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from mmbirefnet.evaluation import DichotomousMetric, score_pair


def sample(score_map, alpha):
    result = SegDataSample(metainfo=dict(img_path='a.jpg'))
    result.seg_logits = PixelData(data=torch.from_numpy((score_map[None] + 0.5) / 255).float().clamp(max=1))
    result.gt_sem_seg = PixelData(data=torch.as_tensor(alpha)[None])
    return result


def scores(score_map, alpha, **options):
    metric = DichotomousMetric(**options)
    metric.process(None, [sample(score_map, alpha)])
    return metric.evaluate(1)


def test_errors_are_of_the_mask_as_it_is():
    """Differences by hand: 0.2, 0.2, 0, 0.6; nothing is stretched to [0, 1] or cut at 128."""
    score_map = np.array([[51, 102], [153, 204]], np.uint8)
    alpha = np.array([[0.0, 0.6], [0.6, 0.2]], np.float32)
    result = scores(score_map, alpha, measures=['MAE', 'MSE'], soft_masks=True)
    assert result == pytest.approx({'MAE': 0.25, 'MSE': (0.04 + 0.04 + 0.36) / 4}, abs=1e-6)
    # Against a hard mask, of the stretched map [[0, 1], [2, 3]] / 3.
    hard = scores(score_map, alpha, measures=['MAE', 'MSE'])
    assert hard == pytest.approx({'MAE': (0 + 2 + 1 + 3) / 12, 'MSE': (0 + 4 + 1 + 9) / 36}, abs=1e-6)


def test_perfect_matte_has_no_error_and_the_other_measures_stay():
    alpha = np.random.default_rng(0).integers(0, 256, (40, 50), np.uint8)
    soft, hard = (scores(alpha, alpha / np.float32(255), soft_masks=value) for value in (True, False))
    assert max(soft['MAE'], soft['MSE']) < 1e-7
    assert min(hard['MAE'], hard['MSE']) > 0.05
    for name in set(hard) - {'MAE', 'MSE'}:
        assert soft[name] == hard[name], name


def test_labels_are_no_soft_masks():
    with pytest.raises(ValueError, match=r'a\.jpg.*LoadMask'):
        scores(np.zeros((4, 4), np.uint8), np.zeros((4, 4), np.int64), soft_masks=True)


def test_shapes_must_fit():
    with pytest.raises(ValueError, match='soft mask'):
        score_pair(np.zeros((4, 4), np.uint8), np.zeros((4, 4), bool), ['MAE'], alpha=np.zeros((4, 5), np.float32))
