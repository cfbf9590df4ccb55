"""Tiles blend to what the model predicts for the whole image, if each output depends on pixels near it."""

import cv2
import numpy as np
import pytest

from mmbirefnet.imaging.tiles import count_tiles, predict_in_tiles


class Blur:
    """A convolution of radius r over the red channel, edges continued; remembers what it was given."""

    def __init__(self, radius):
        self.radius, self.shapes = radius, []

    def __call__(self, images):
        self.shapes.append(images.shape[1:3])
        kernel = np.random.default_rng(0).random((2 * self.radius + 1,) * 2).astype(np.float32)
        kernel /= kernel.sum()
        red = images[0, ..., 0].astype(np.float32) / 255
        return cv2.filter2D(red, cv2.CV_32F, kernel, borderType=cv2.BORDER_REPLICATE)[None]


def noise(height, width):
    return np.random.default_rng(1).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize(
    ('size', 'tile', 'overlap'),
    [
        ((256, 320), 128, 32),
        ((256, 320), 128, 33),
        ((128, 512), 128, 64),
        ((64, 480), 96, 32),
        ((352, 352), 192, 160),
        ((96, 64), 128, 32),
    ],
)
def test_a_convolution_within_its_context_is_exact(size, tile, overlap):
    """Everywhere, seams included: its radius is a quarter of the overlap."""
    image, model = noise(*size), Blur(overlap // 4)
    whole = Blur(overlap // 4)(image[None])[0]
    assert np.abs(predict_in_tiles(model, image, tile, overlap) - whole).max() < 1e-6
    assert all(max(shape) <= tile for shape in model.shapes)
    assert (len(model.shapes) == 1) == (max(size) <= tile)
    assert len(model.shapes) == count_tiles(size, tile, overlap)


def test_more_context_differs_near_seams_only():
    image, radius = noise(128, 512), 15
    difference = np.abs(predict_in_tiles(Blur(radius), image, 256, 32) - Blur(radius)(image[None])[0]).max(axis=0)
    # Tiles start at 0, 224 and 256; the first ends at 256, the second at 480.
    near = np.zeros(512, bool)
    for border in (224, 256, 480):
        near[border - radius : border + radius + 1] = True
    assert difference[near].max() > 1e-3
    assert difference[~near].max() < 1e-6


def test_without_overlap_tiles_are_side_by_side():
    image = noise(64, 128)
    red = image[..., 0] / np.float32(255)
    assert np.array_equal(predict_in_tiles(Blur(0), image, 64, 0), red)


def test_a_seam_is_a_ramp():
    """Tiles that predict 0 and 1: the second fades in over the middle half of the 64 shared columns."""
    tiles = iter([0.0, 1.0])
    image = np.zeros((32, 192, 3), np.uint8)
    row = predict_in_tiles(lambda images: np.full(images.shape[:3], next(tiles), np.float32), image, 128, 64)[0]
    ramp = (np.arange(32) + 0.5) / 32
    assert row == pytest.approx(np.concatenate([np.zeros(80), ramp, np.ones(80)]), abs=1e-6)
