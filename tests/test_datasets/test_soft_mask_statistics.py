"""Soft masks (alpha mattes) and hard masks."""

import cv2
import numpy as np
import pytest

from mmbirefnet.datasets import DichotomousDataset
from mmbirefnet.datasets.preparation.synthetic import make_sample
from mmbirefnet.datasets.soft_masks import are_soft, count_soft, is_soft

OUTLINES = [make_sample(0, 'test', index, (256, 256)).mask for index in range(10)]


@pytest.mark.parametrize('mask', OUTLINES)
def test_synthetic_masks(mask):
    """Synthetic masks have anti-aliased edges and are hard; with a strong blur they are soft."""
    assert np.unique(mask).size > 10
    mask = mask.astype(np.float32) / 255
    assert not is_soft(mask)
    assert not is_soft(cv2.resize(mask, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC))
    assert is_soft(cv2.GaussianBlur(mask, (0, 0), 6))


def test_counted_by_hand():
    """A 40x40 square with a strip of gray: 5x5 squares of gray fit in where the strip is five pixels wide."""
    mask = np.zeros((60, 60), np.float32)
    mask[10:50, 10:50] = 1
    mask[10:50, 10:14] = 128 / 255
    assert not is_soft(mask)
    mask[10:50, 14] = 128 / 255  # 36 centres, 2.25 % of 1600 pixels
    assert is_soft(mask)
    mask[5:55, 50:56] = 1  # of 1900 pixels less than 2 %
    assert not is_soft(mask)


@pytest.mark.parametrize(('level', 'soft'), [(0, False), (10, False), (128, True), (245, False), (255, False)])
def test_constant_masks(level, soft):
    assert is_soft(np.full((20, 20), level / 255, np.float32)) == soft


def test_soft_masks_are_counted(tmp_path):
    masks = [cv2.GaussianBlur(mask, (0, 0), 6) if i % 5 == 0 else mask for i, mask in enumerate(OUTLINES)]
    for name in ('im', 'gt'):
        (tmp_path / name).mkdir()
        for i, mask in enumerate(masks):
            cv2.imwrite(str(tmp_path / name / f'{i}.png'), mask)
    dataset = DichotomousDataset(str(tmp_path), pipeline=[])
    assert count_soft(dataset, 10) == count_soft(dataset, 64) == (2, 10)
    assert count_soft(dataset, 1) == (1, 1)  # the first
    assert count_soft(dataset, 2) == (1, 2)  # first and last


def test_set_is_soft_from_a_tenth_of_soft_masks():
    assert are_soft((1, 10))
    assert not are_soft((1, 11))
    assert not are_soft((0, 1))
