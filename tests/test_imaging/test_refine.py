"""Refinement against a plain transcription of the guided filter, and on composites of known alpha."""

import os
import subprocess
import sys

import cv2
import numpy as np
import pytest
from fake_backend import RedBackend

from mmbirefnet import remove_background
from mmbirefnet.apis import BiRefNetInferencer
from mmbirefnet.datasets.preparation.synthetic import make_sample
from mmbirefnet.imaging import refine
from mmbirefnet.imaging.refine import refine_map
from mmbirefnet.imaging.settings import Settings


def coarsen(alpha):
    """As a model at a quarter of the image's size would have it."""
    height, width = alpha.shape
    small = cv2.resize(alpha, (width // 4, height // 4), interpolation=cv2.INTER_AREA)
    return cv2.resize(cv2.GaussianBlur(small, (0, 0), 1), (width, height), interpolation=cv2.INTER_LINEAR)


def composite(size, index=0):
    """A drawn object with soft edges on a texture; image and alpha."""
    rng = np.random.default_rng(index)
    mask = make_sample(0, 'DIS-VD', index, (120, 160)).mask
    mask = cv2.resize(mask, size[::-1], interpolation=cv2.INTER_CUBIC)
    alpha = cv2.GaussianBlur(mask.astype(np.float32) / 255, (0, 0), 1.5)[..., None]
    foreground, background = (
        color + 0.15 * cv2.resize(rng.random((16, 16, 3)).astype(np.float32), size[::-1])
        for color in ((0.7, 0.5, 0.1), (0.1, 0.3, 0.7))
    )
    return np.rint((alpha * foreground + (1 - alpha) * background) * 255).astype(np.uint8), alpha[..., 0]


def sad(prediction, alpha):
    return np.abs(prediction - alpha).sum() / 1000


def transcription(image, soft_map, weight, radius, eps):
    """Eqs. 19 to 21 of He et al. (2013) with weights, a window at a time; mirrored at the border."""
    height, width = soft_map.shape
    pads = ((radius, radius), (radius, radius))
    colors = np.pad(image.astype(np.float64) / 255, (*pads, (0, 0)), 'symmetric')
    alpha, weight = (np.pad(x.astype(np.float64), pads, 'symmetric') for x in (soft_map, weight))
    slopes, offsets = np.empty((height, width, 3)), np.empty((height, width))
    for y in range(height):
        for x in range(width):
            window = slice(y, y + 2 * radius + 1), slice(x, x + 2 * radius + 1)
            c, a, w = colors[window].reshape(-1, 3), alpha[window].ravel(), weight[window].ravel()
            w = w / w.sum()
            mean, mean_alpha = w @ c, w @ a
            covariance = (c - mean).T @ ((c - mean) * w[:, None]) + eps * np.eye(3)
            slopes[y, x] = np.linalg.solve(covariance, (c - mean).T @ (w * (a - mean_alpha)))
            offsets[y, x] = mean_alpha - slopes[y, x] @ mean
    result = np.empty((height, width))
    slopes, offsets = np.pad(slopes, (*pads, (0, 0)), 'symmetric'), np.pad(offsets, pads, 'symmetric')
    for y in range(height):
        for x in range(width):
            window = slice(y, y + 2 * radius + 1), slice(x, x + 2 * radius + 1)
            color = image[y, x] / 255
            result[y, x] = (slopes[window] @ color + offsets[window]).mean()
    return result.clip(0, 1)


def test_guided_filter_against_its_equations():
    image, alpha = composite((44, 64), 6)
    soft_map = coarsen(alpha)
    refined = refine_map(image, soft_map, 'guided')
    uncertain = (soft_map > 0.05) & (soft_map < 0.95)
    band = cv2.dilate(uncertain.view(np.uint8), np.uint8([[0, 1, 0], [1, 1, 1], [0, 1, 0]]))
    assert 0.05 < band.mean() < 0.9
    expected = transcription(image, soft_map, np.where(band, refine.UNCERTAIN_WEIGHT, 1), 3, refine.EPS)
    assert np.array_equal(refined[band == 0], soft_map[band == 0])  # all that is certain stays
    np.testing.assert_allclose(refined[band > 0], expected[band > 0], atol=0.01)  # float32 squares
    assert np.abs(refined - soft_map).max() > 0.05


@pytest.mark.parametrize('size', [(240, 320), (1200, 1600)])  # the second is subsampled
def test_guided_filter_lowers_the_error(size):
    for index in (0, 3):
        image, alpha = composite(size, index)
        soft_map = coarsen(alpha)
        refined = refine_map(image, soft_map, 'guided')
        assert refined.dtype == np.float32
        assert sad(refined, alpha) < 0.7 * sad(soft_map, alpha)


@pytest.mark.soak  # numba compiles for a minute at first
def test_closed_form_lowers_the_error():
    pytest.importorskip('pymatting')
    image, alpha = composite((120, 160), 3)
    soft_map = coarsen(alpha)
    assert sad(refine_map(image, soft_map, 'closed-form'), alpha) < 0.7 * sad(soft_map, alpha)


@pytest.mark.soak
def test_closed_form_keeps_the_number_of_threads():
    """The import of PyMatting sets torch's threads, too."""
    pytest.importorskip('pymatting')
    code = (
        'import numpy as np, torch\n'
        'from mmbirefnet.imaging.refine import refine_map\n'
        'soft_map = np.linspace(-5, 6, 64, dtype=np.float32).clip(0, 1)[:, None].repeat(64, 1)\n'
        'refine_map((255 * soft_map[..., None]).repeat(3, 2).astype(np.uint8), soft_map, "closed-form")\n'
        'print(torch.get_num_threads())'
    )
    without = {name: value for name, value in os.environ.items() if name != 'NUMBA_NUM_THREADS'}
    run = subprocess.run(
        [sys.executable, '-c', code], env=without | {'OMP_NUM_THREADS': '1'}, capture_output=True, text=True
    )
    assert run.stdout.split()[-1:] == ['1'], run.stderr


def test_closed_form_needs_a_package(monkeypatch):
    monkeypatch.setitem(sys.modules, 'pymatting', None)
    image, alpha = composite((120, 160))
    with pytest.raises(ImportError, match=r"pymatting\. Fix: pip install 'mmbirefnet\[matting\]'"):
        refine_map(image, alpha, 'closed-form')


@pytest.mark.parametrize('value', [0.0, 0.5, 1.0])
def test_maps_without_an_edge_stay(value):
    image, soft_map = np.zeros((5, 7, 3), np.uint8), np.full((5, 7), value, np.float32)
    assert np.array_equal(refine_map(image, soft_map, 'guided'), soft_map)


def test_wrong_method():
    with pytest.raises(ValueError, match="refine='sharp', must be one of guided, closed-form"):
        refine_map(np.zeros((5, 7, 3), np.uint8), np.zeros((5, 7), np.float32), 'sharp')
    with pytest.raises(ValueError, match="refine='sharp', must be None or one of guided, closed-form"):
        Settings(refine='sharp')


def test_it_comes_before_the_other_operations():
    """In the inferencer and in one call; with a box on what the model saw."""
    image = np.zeros((120, 160, 3), np.uint8)
    image[30:90, 40:120, 0] = 255
    image[..., 2] = np.linspace(0, 90, 160)
    inferencer = BiRefNetInferencer(backend=RedBackend(input_size=(32, 32)))
    plain = inferencer(image, channel_order='rgb')
    expected = refine_map(image, plain, 'guided')
    assert (np.abs(expected - plain) > 0.1).any()
    refined = inferencer(image, channel_order='rgb', refine='guided')
    np.testing.assert_array_equal(refined, expected)
    inverted = inferencer(image, channel_order='rgb', refine='guided', threshold=0.5, invert=True)
    np.testing.assert_array_equal(inverted, expected <= 0.5)
    cutout = np.asarray(remove_background(image, inferencer, refine='guided'))
    np.testing.assert_array_equal(cutout[..., 3], np.rint(expected * 255))
    np.testing.assert_array_equal(
        np.asarray(remove_background(image, mask=plain, refine='guided', channel_order='rgb'))[..., 3],
        np.rint(refine_map(image, np.rint(plain * 255).astype(np.float32) / 255, 'guided') * 255),
    )
