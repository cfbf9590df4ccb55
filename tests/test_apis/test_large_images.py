"""Tiles and the second pass, through the inferencer."""

import numpy as np
import pytest
from fake_backend import RedBackend
from pico import iou

from mmbirefnet.apis import BiRefNetInferencer, Settings, load_image
from mmbirefnet.datasets.preparation.synthetic import make_sample


def red_image(height, width):
    return load_image(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8), channel_order='rgb')


def test_tiles_of_the_image_at_its_own_size():
    """Without resizing, the map of the red channel is exact, and no input is larger than the tile."""
    image, backend = red_image(160, 288), RedBackend()
    soft_map = BiRefNetInferencer(backend=backend).predict_image(image, Settings(tile=96, tile_overlap=32))
    assert np.abs(soft_map - image.rgb[..., 0] / 255).max() < 1e-6
    assert set(backend.shapes) == {(1, 96, 96)}
    assert len(backend.shapes) == 2 * 4


def test_smaller_images_are_not_tiled():
    backend = RedBackend()
    BiRefNetInferencer(backend=backend).predict_image(red_image(90, 96), Settings(tile=96))
    assert backend.shapes == [(1, *backend.input_size)]


def test_an_input_size_holds_with_tiles():
    backend = RedBackend()
    inferencer = BiRefNetInferencer(backend=backend)
    inferencer.predict_image(red_image(400, 800), Settings('image', max_size=256, tile=128, tile_overlap=0))
    assert backend.shapes == [(1, 128, 128)] * 2
    with pytest.raises(ValueError, match='red: takes only images of 32x64'):
        BiRefNetInferencer(backend=RedBackend(fixed_size=True)).predict_image(red_image(99, 99), Settings(tile=64))


@pytest.mark.parametrize(
    'options', [dict(tile=33), dict(tile=32), dict(tile_overlap=8), dict(tile=64, tile_overlap=33)]
)
def test_wrong_tiles(options):
    with pytest.raises(ValueError, match='tile'):
        Settings(**options)


class Blobs(RedBackend):
    """The map is the red channel, but details below a pixel of the input are lost, as in any model."""

    input_size = (64, 64)


def disk(height, width, center, radius):
    yy, xx = np.mgrid[:height, :width]
    return (np.hypot(yy - center[0], xx - center[1]) < radius).astype(np.uint8) * 255


def test_the_second_pass_sees_the_object_alone():
    """A disk of radius 40 in 800x1200: one pixel of the first input covers 12x19, of the second 1.5x1.5."""
    red = disk(800, 1200, (300, 700), 40)
    red[700:705, 100:105] = 255  # a speck, which must not widen the crop
    image = load_image(np.dstack([red, red * 0, red * 0]), channel_order='rgb')
    inferencer = BiRefNetInferencer(backend=Blobs())
    once, twice = (inferencer.predict_image(image, Settings(two_pass=two_pass)) for two_pass in (False, True))
    sad = [np.abs(each - red / 255).sum() for each in (once, twice)]
    assert iou(once, red) < 0.9
    assert iou(twice, red) > 0.95
    assert sad[1] < sad[0] / 3
    far = np.ones(red.shape, bool)
    far[150:450, 550:850] = False
    assert np.array_equal(once[far], twice[far])


def test_the_second_pass_is_left_out_where_it_shows_nothing_new():
    for red in (np.zeros((200, 200), np.uint8), disk(200, 200, (100, 100), 95)):
        backend = Blobs()
        image = load_image(np.dstack([red] * 3))
        BiRefNetInferencer(backend=backend).predict_image(image, Settings(two_pass=True))
        assert len(backend.shapes) == 1


def small_object(index):
    """A drawn object of 120x160 on a plain background of 480x640, and its mask."""
    drawn, rng = make_sample(0, 'DIS-VD', index, (120, 160)), np.random.default_rng(index)
    image = np.zeros((480, 640, 3)) + np.median(drawn.image[drawn.mask == 0], axis=0)
    mask = np.zeros((480, 640), np.uint8)
    top, left = rng.integers(0, 360), rng.integers(0, 480)
    place = np.s_[top : top + 120, left : left + 160]
    mask[place] = drawn.mask
    image[place] += drawn.mask[..., None] / 255 * (drawn.image - image[place])
    return image.astype(np.uint8), mask


def test_small_objects_with_a_trained_model(trained_checkpoint):
    """Mean IoU 0.47 in one pass, 0.77 in two."""
    inferencer = BiRefNetInferencer(*trained_checkpoint, device='cpu')
    images, masks = zip(*map(small_object, range(8)))
    once, twice = (
        np.mean([iou(soft_map, mask) for soft_map, mask in zip(inferencer(list(images), two_pass=two_pass), masks)])
        for two_pass in (False, True)
    )
    assert twice > once + 0.1
