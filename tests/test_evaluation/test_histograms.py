"""Counts of gray levels, with the result of either form that OpenCV returns."""

import cv2
import numpy as np
import pytest
from PIL import Image

from mmbirefnet.datasets.transforms import LoadMask
from mmbirefnet.evaluation.functional.pair import Pair

calc_hist = cv2.calcHist
FORMS = {'OpenCV 4, a column': lambda counts: counts.reshape(-1, 1), 'OpenCV 5, one dimension': np.ravel}


@pytest.fixture(autouse=True, params=FORMS.values(), ids=list(FORMS))
def _form(request, monkeypatch):
    monkeypatch.setattr(cv2, 'calcHist', lambda *args: request.param(calc_hist(*args)))


def test_histograms_of_a_pair():
    rng = np.random.default_rng(0)
    score_map, mask = rng.integers(256, size=(20, 30), dtype=np.uint8), rng.random((20, 30)) > 0.7
    background, foreground = Pair(score_map, mask).histograms
    np.testing.assert_array_equal(background, np.bincount(score_map[~mask], minlength=256))
    np.testing.assert_array_equal(foreground, np.bincount(score_map[mask], minlength=256))


def test_masks_of_class_ids(tmp_path):
    mask = np.zeros((40, 60), np.uint8)
    mask[5:30, 5:40] = 15
    path = tmp_path / 'ids.png'
    Image.fromarray(mask).save(path)
    with pytest.raises(ValueError, match='holds the values 15'):
        LoadMask()({'img_path': 'image.jpg', 'seg_map_path': str(path), 'ori_shape': mask.shape})
