import tracemalloc

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mmbirefnet.imaging.maps import (
    box_of_object,
    crop_of_box,
    process_map,
    remove_small_components,
    resize_map,
    to_uint8,
)
from mmbirefnet.imaging.settings import Settings


@pytest.mark.parametrize('source', [(64, 96), (1, 5), (7, 1), (2, 2)])
@pytest.mark.parametrize('target', [(64, 96), (131, 75), (1, 1), (3, 200), (20, 21)])
def test_resize_is_torch_s_with_aligned_corners(source, target):
    values = np.random.default_rng(0).random(source, np.float32)
    expected = F.interpolate(torch.from_numpy(values)[None, None], target, mode='bilinear', align_corners=True)[0, 0]
    resized = resize_map(values, target)
    assert resized.dtype == np.float32
    np.testing.assert_allclose(resized, expected.numpy(), atol=2e-5)


@pytest.mark.parametrize('size', [(1, 200_000), (200_000, 1)])
def test_memory_of_a_resize_is_that_of_its_ends(size):
    """One axis first, the map between the passes would have 1024 x 200,000 values: 0.8 GB."""
    values = np.random.default_rng(0).random((1024, 1024), np.float32)
    tracemalloc.start()
    resized = resize_map(values, size)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 * 2**20
    line = values[0] if size[0] == 1 else values[:, 0]
    np.testing.assert_allclose(resized.ravel()[:: 200_000 - 1], line[[0, -1]], atol=1e-6)


def test_grey_levels_are_truncated():
    levels = to_uint8(np.array([[0, 0.999 / 255, 1.001 / 255, 0.9999, 1]], np.float32))
    assert levels.dtype == np.uint8
    assert levels.tolist() == [[0, 0, 1, 254, 255]]


def test_box():
    outer, inner = crop_of_box((10, 20, 30, 60), 0.5, (65, 100), 'a')
    assert (inner, outer) == ((slice(20, 60), slice(10, 30)), (slice(0, 65), slice(0, 40)))
    outer, inner = crop_of_box((-5, 1.5, 3.2, 9), 0, (10, 10), 'a')
    assert inner == outer == (slice(1, 9), slice(0, 4))
    outer, inner = crop_of_box((1, 2, 3, 4), 1e308, (10, 20), 'a')
    assert (inner, outer) == ((slice(2, 4), slice(1, 3)), (slice(0, 10), slice(0, 20)))
    with pytest.raises(ValueError, match='a.jpg: box=.*10x20 pixels'):
        crop_of_box((11, 0, 15, 5), 0.1, (20, 10), 'a.jpg')


def test_small_components():
    soft_map = np.zeros((20, 30), np.float32)
    soft_map[2:12, 2:12] = 0.9
    soft_map[1, 2:12] = 0.2  # its soft edge
    soft_map[5:8, 20:23] = 0.8
    soft_map[4, 20:23] = 0.3  # that of the small one
    soft_map[8, 23] = 0.7  # touches it at a corner: 10 pixels together
    kept = soft_map.copy()
    kept[:, 15:] = 0
    assert remove_small_components(soft_map, 10) is soft_map
    assert np.array_equal(remove_small_components(soft_map, 11), kept)
    assert np.array_equal(remove_small_components(soft_map, 11 / 600), kept)
    assert not remove_small_components(soft_map, 101).any()
    # At 0.75 the corner does not count.
    assert np.array_equal(remove_small_components(soft_map, 10, threshold=0.75), kept)
    faint = np.full((4, 4), 0.3, np.float32)
    assert np.array_equal(remove_small_components(faint, 100), faint)


def ring() -> np.ndarray:
    """A square ring of 6x6 pixels with a hole of 2x2, and a dot, on a faint haze."""
    soft_map = np.full((12, 14), 0.02, np.float32)
    soft_map[2:8, 2:8] = 1
    soft_map[4:6, 4:6] = 0.3
    soft_map[10, 12] = 0.9
    return soft_map


def test_levels():
    levels = process_map(np.array([[0, 0.1, 0.2, 0.5, 0.8, 1]], np.float32), Settings(levels=(0.2, 0.8)))
    np.testing.assert_allclose(levels, [[0, 0, 0, 0.5, 1, 1]], atol=1e-6)
    assert levels.dtype == np.float32


def test_largest_component_and_holes():
    largest = process_map(ring(), Settings(largest=True))
    assert largest[10, 12] == 0
    assert np.array_equal(largest[:9, :9], ring()[:9, :9])
    filled = process_map(ring(), Settings(fill_holes=True))
    assert (filled[2:8, 2:8] == 1).all()
    filled[4:6, 4:6] = 0.3
    assert np.array_equal(filled, ring())  # all else stays
    open_ring = ring()
    open_ring[4, :4] = 0.02
    assert np.array_equal(process_map(open_ring, Settings(fill_holes=True)), open_ring)
    nothing, everything = np.zeros((4, 4), np.float32), np.ones((4, 4), np.float32)
    for options in (dict(largest=True), dict(fill_holes=True)):
        assert np.array_equal(process_map(nothing, Settings(**options)), nothing)
        assert np.array_equal(process_map(everything, Settings(**options)), everything)


def test_grow_and_shrink():
    square = np.zeros((15, 15), np.float32)
    square[5:10, 5:10] = 0.8
    grown = process_map(square, Settings(grow=2))
    assert (grown[7, 3:12] == np.float32(0.8)).all()
    assert grown[7, [2, 12]].tolist() == [0, 0]
    assert grown[3, 3] == 0  # by a disk: corners are round
    shrunk = process_map(square, Settings(grow=-2))
    assert np.argwhere(shrunk).tolist() == [[7, 7]]
    whole = np.ones((5, 5), np.float32)
    assert np.array_equal(process_map(whole, Settings(grow=-2)), whole)  # the image's border is no edge


def test_feather_and_invert():
    step = np.zeros((9, 400), np.float32)
    step[:, 200:] = 1
    soft = process_map(step, Settings(feather=10))
    # The integral of a Gaussian: 0.5 between the pixels of the step, 0.8413 one standard deviation away.
    np.testing.assert_allclose(soft[4, [199, 200]].mean(), 0.5, atol=1e-3)
    np.testing.assert_allclose(soft[4, [209, 210]].mean(), 0.8413, atol=2e-3)
    assert np.array_equal(process_map(step, Settings(invert=True)), 1 - step)


@pytest.mark.parametrize('sigma', [0.3, 1, 7, 32, 500])
def test_feather_stays_in_its_range(sigma):
    ones = np.ones((32, 48), np.float32)
    assert process_map(ones, Settings(feather=sigma)).max() <= 1
    assert process_map(ones, Settings(feather=sigma, invert=True)).min() >= 0


def test_order_of_the_operations():
    """levels, largest, holes, threshold, grow, feather, invert: each sees what those before it have made."""
    settings = Settings(levels=(0.1, 0.95), largest=True, fill_holes=True, threshold=0.4, grow=1, invert=True)
    expected = np.ones((12, 14), np.float32)
    expected[2:8, 2:8] = expected[1, 2:8] = expected[8, 2:8] = 0
    expected[2:8, 1] = expected[2:8, 8] = 0
    assert np.array_equal(process_map(ring(), settings), expected)


def test_box_of_the_object():
    assert box_of_object(ring()) == (slice(2, 11), slice(2, 13))
    assert box_of_object(ring(), 0.2) == (slice(0, 12), slice(0, 14))
    assert box_of_object(np.full((3, 4), 0.04, np.float32)) == (slice(0, 3), slice(0, 4))
