"""Blur-fusion against a plain transcription of its equations, torch, and a composite with known foreground."""

import cv2
import numpy as np
import pytest
import torch

from mmbirefnet.apis import estimate_foreground
from mmbirefnet.datasets.preparation.synthetic import make_sample


def smooth(rng, size):
    return cv2.resize(rng.random((2, 2, 3), np.float32), size[::-1], interpolation=cv2.INTER_LINEAR)


@pytest.fixture(scope='module')
def composite():
    """A mixture of known foreground and background, its alpha (a drawn gear with soft edges), and that foreground."""
    rng = np.random.default_rng(0)
    mask = make_sample(0, 'DIS-VD', 6, (240, 300)).mask
    alpha = cv2.GaussianBlur(mask.astype(np.float32) / 255, (0, 0), 3)
    foreground, background = smooth(rng, alpha.shape), smooth(rng, alpha.shape)
    image = alpha[..., None] * foreground + (1 - alpha[..., None]) * background
    return image, alpha, foreground


def box_blur(x, side):
    """Mean over the side x side pixels around each, side // 2 of them before it; zeros around the image."""
    before, after = side // 2, side - 1 - side // 2
    padded = np.pad(x.astype(np.float64), ((before, after), (before, after)) + ((0, 0),) * (x.ndim - 2))
    for axis in (0, 1):
        padded = np.lib.stride_tricks.sliding_window_view(padded, side, axis).mean(-1)
    return padded


def transcription(image, alpha, sides):
    alpha = alpha[..., None].astype(np.float64)
    foreground = background = image.astype(np.float64)
    for side in sides:
        mean_f = box_blur(foreground * alpha, side) / (box_blur(alpha, side) + 1e-5)
        mean_b = box_blur(background * (1 - alpha), side) / (box_blur(1 - alpha, side) + 1e-5)
        foreground = (mean_f + alpha * (image - alpha * mean_f - (1 - alpha) * mean_b)).clip(0, 1)
        background = mean_b
    return foreground


@pytest.mark.parametrize('device', ['cpu', *(['cuda'] if torch.cuda.is_available() else [])])
@pytest.mark.parametrize('sides', [(90, 6), (6,), (7, 3)])
def test_opencv_and_torch_agree_with_the_equations(composite, sides, device):
    image, alpha, _ = composite
    expected = transcription(image, alpha, sides)
    opencv = estimate_foreground(image, alpha, sides)
    tensors = estimate_foreground(image, alpha, sides, device=device)
    assert opencv.dtype == tensors.dtype == np.float32
    np.testing.assert_allclose(opencv, expected, atol=1e-4)
    np.testing.assert_allclose(tensors, expected, atol=1e-4)
    np.testing.assert_allclose(tensors, opencv, atol=1e-4)


def test_image_smaller_than_the_blur():
    rng = np.random.default_rng(1)
    image, alpha = rng.random((5, 9, 3), np.float32), rng.random((5, 9), np.float32)
    expected = transcription(image, alpha, (90, 6))
    for device in (None, 'cpu'):
        np.testing.assert_allclose(estimate_foreground(image, alpha, device=device), expected, atol=1e-4)


@pytest.mark.parametrize('shape', [(20, 2100), (2100, 20)])
def test_images_larger_than_a_tile(shape):
    rng = np.random.default_rng(2)
    image, alpha = rng.random((*shape, 3), np.float32), rng.random(shape, np.float32)
    expected = transcription(image, alpha, (90, 6))
    for device in (None, 'cpu'):
        np.testing.assert_allclose(estimate_foreground(image, alpha, device=device), expected, atol=1e-4)


def test_it_recovers_a_known_foreground(composite):
    """Error of the colors that show, as a cut-out without it has them, with one pass, and with both."""
    image, alpha, foreground = composite
    edge = (alpha > 0.05) & (alpha < 0.95)

    def error(colors):
        return (np.abs(colors - foreground).mean(-1) * alpha)[edge].mean()

    plain, once, twice = (error(estimate_foreground(image, alpha, sides)) for sides in ((), (90,), (90, 6)))
    assert twice < once < plain
    assert twice < 0.3 * plain


def test_eight_bits(composite):
    image, alpha, _ = composite
    image8, alpha8 = (image * 255).astype(np.uint8), (alpha * 255).astype(np.uint8)
    expected = estimate_foreground(image8.astype(np.float32) / 255, alpha8.astype(np.float32) / 255) * 255
    result = estimate_foreground(image8, alpha8)
    assert result.dtype == np.uint8
    assert np.abs(result - expected).max() <= 0.5 + 1e-3
    solid = alpha8 == 255
    assert solid.any()
    assert np.array_equal(result[solid], image8[solid])


def test_wrong_input():
    image = np.zeros((4, 5, 3), np.uint8)
    with pytest.raises(ValueError, match=r'\(5, 4\)'):
        estimate_foreground(image, np.zeros((5, 4), np.uint8))
    with pytest.raises(ValueError, match='float64'):
        estimate_foreground(image, np.zeros((4, 5)))
