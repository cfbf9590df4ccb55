import tracemalloc

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mmbirefnet.imaging.maps import crop_of_box, remove_small_components, resize_map, to_uint8


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
