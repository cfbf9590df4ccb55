"""The fast skeleton against scikit-image's."""

import cv2
import numpy as np
import pytest
from skimage.morphology import skeletonize as reference

from mmbirefnet.evaluation.functional.skeleton import skeletonize


def test_equals_scikit_image():
    rng = np.random.default_rng(0)
    for _ in range(200):
        shape = tuple(rng.integers(1, 90, 2))
        field = rng.random(shape)
        sigma = rng.choice([0, 1, 3])
        field = cv2.GaussianBlur(field, (0, 0), float(sigma)).reshape(shape) if sigma else field
        mask = field > np.quantile(field, rng.choice([0.02, 0.1, 0.4, 0.7]))
        np.testing.assert_array_equal(skeletonize(mask), reference(mask))


@pytest.mark.parametrize('value', [False, True])
def test_empty_and_full(value):
    mask = np.full((31, 47), value)
    np.testing.assert_array_equal(skeletonize(mask), reference(mask))
