"""Coarse masks made from the ground truth, one operation at a time."""

import numpy as np
import pytest

from mmbirefnet.datasets.transforms import CoarseMask, PackDichotomousInputs


def results(mask, **more):
    image = np.zeros((*mask.shape, 3), np.uint8)
    return dict(
        img=image, gt_seg_map=mask, seg_fields=['gt_seg_map'], img_shape=mask.shape, ori_shape=mask.shape, **more
    )


def square(size=100, start=30, end=70):
    mask = np.zeros((size, size), np.uint8)
    mask[start:end, start:end] = 255
    return mask


@pytest.fixture(autouse=True)
def seeded():
    np.random.seed(0)  # noqa: NPY002


def test_guide_is_the_mask_if_all_probabilities_are_0():
    transform = CoarseMask(prob=0, box_prob=0, drop=0, select=0)
    guide = transform(results(square()))['guide']
    assert guide.dtype == np.float32
    np.testing.assert_array_equal(guide, square() / np.float32(255))


def test_drop_is_the_fraction_without_guide():
    transform = CoarseMask(drop=0.25, select=0)
    dropped = sum('guide' not in transform(results(square())) for _ in range(200))
    assert 30 <= dropped <= 70


@pytest.mark.parametrize('name', ['erode', 'dilate', 'holes', 'shift', 'coarsen'])
def test_operations_change_the_mask_by_at_most_their_strength(name):
    """The ground truth has a size of 40 pixels, and a quarter of it, 10, is the most that is changed."""
    mask, rng = square() / np.float32(255), np.random.default_rng(0)
    changes = [getattr(CoarseMask(strength=0.25), name)(mask, rng) for _ in range(50)]
    assert all(guide.shape == mask.shape and guide.dtype == np.float32 for guide in changes)
    assert all(guide.min() >= 0 and guide.max() <= 1 for guide in changes)
    assert sum((guide != mask).any() for guide in changes) > 40
    inner, outer = (square(start=30 + grow, end=70 - grow) > 0 for grow in (11, -11))
    if name == 'erode':
        assert all((guide <= mask).all() and guide[inner].all() for guide in changes)
    elif name == 'dilate':
        assert all((guide >= mask).all() and not guide[~outer].any() for guide in changes)
    elif name == 'shift':
        assert all(guide[inner].all() and not guide[~outer].any() for guide in changes)
        assert max(abs(np.argwhere(guide > 0.5).mean(0) - 49.5).max() for guide in changes) > 7
    elif name == 'holes':
        assert min(guide.sum() for guide in changes) < mask.sum() < max(guide.sum() for guide in changes)
    else:
        assert all(guide.sum() == pytest.approx(mask.sum(), rel=0.1) for guide in changes)
        assert any(((guide > 0.1) & (guide < 0.9)).any() for guide in changes)


def test_thin_objects_are_not_erased():
    """A grid of lines, which the smallest erosion would erase."""
    mask = np.zeros((100, 100), np.uint8)
    mask[::10] = 255
    transform = CoarseMask(prob=1, box_prob=0, drop=0, select=0)
    assert not transform.erode(mask / np.float32(255), np.random.default_rng(0)).any()
    assert all(transform(results(mask))['guide'].sum() > 100 for _ in range(10))


def test_box():
    mask = np.zeros((60, 80), np.uint8)
    mask[10, 20] = mask[40, 50] = 255
    guide = CoarseMask(prob=0, box_prob=1, drop=0, select=0)(results(mask))['guide']
    expected = np.zeros((60, 80), np.float32)
    expected[10:41, 20:51] = 1
    np.testing.assert_array_equal(guide, expected)


def test_selects_one_component():
    """In the ground truth too; what is chosen is never dropped, and each component has its turn."""
    mask = np.zeros((60, 80), np.uint8)
    mask[5:20, 5:20] = 255
    mask[30:50, 40:70] = 200
    mask[55, 5] = 255  # a speck
    transform = CoarseMask(prob=0, box_prob=0, drop=1, select=1)
    found = set()
    for _ in range(20):
        done = transform(results(mask.copy()))
        assert done['gt_seg_map'].dtype == np.uint8
        np.testing.assert_array_equal(done['guide'], done['gt_seg_map'] / np.float32(255))
        found.add((int(done['gt_seg_map'][10, 10]), int(done['gt_seg_map'][40, 50])))
        assert done['gt_seg_map'][55, 5] == 0
    assert found == {(255, 0), (0, 200)}
    assert 'guide' not in transform(results(square()))  # one component alone may be dropped


def test_seed():
    """With a seed the same file has the same coarse mask, another file another one."""
    first, same, other = (
        CoarseMask(prob=1, drop=0, select=0, seed=0)(results(square(), stem=stem))['guide'] for stem in 'aab'
    )
    np.testing.assert_array_equal(first, same)
    assert (first != other).any()
    fresh = [CoarseMask(prob=1, drop=0, select=0)(results(square(), stem='a'))['guide'] for _ in range(2)]
    assert (fresh[0] != fresh[1]).any()


def test_empty_mask_and_no_mask():
    empty = CoarseMask(prob=1, box_prob=1, drop=0)(results(np.zeros((40, 40), np.uint8)))
    assert not empty['guide'].any()
    image = results(square())
    del image['gt_seg_map']
    assert 'guide' not in CoarseMask(drop=0)(image)


def test_packed():
    packed = PackDichotomousInputs()(CoarseMask(prob=0, box_prob=0, drop=0, select=0)(results(square())))
    sample = packed['data_samples']
    assert packed['inputs'].shape == (3, 100, 100)
    assert sample.guide.data.shape == (1, 100, 100)
    assert (sample.guide.data == sample.gt_sem_seg.data).all()


@pytest.mark.parametrize('options', [dict(prob=2), dict(drop=-1), dict(strength=2), dict(select=1.1)])
def test_options(options):
    with pytest.raises(ValueError, match=f'CoarseMask: {next(iter(options))}='):
        CoarseMask(**options)
