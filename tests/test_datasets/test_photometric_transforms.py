import numpy as np
import pytest

from mmbirefnet.datasets.transforms import ColorEnhance, SaltAndPepper, SyntheticBackground

# ruff: noqa: NPY002 (the transforms draw from the global random state)


def luma(bgr):
    return np.trunc((19595 * bgr[..., 2] + 38470 * bgr[..., 1] + 7471 * bgr[..., 0] + 0x8000) / 65536)


def enhanced(image, name, factor):
    """What each enhancement means, computed apart: factor times the image plus (1 - factor) times its dull form."""
    image = image.astype(np.float64)
    if name == 'Brightness':
        dull = np.zeros_like(image)
    elif name == 'Contrast':
        dull = np.full_like(image, int(luma(image).mean() + 0.5))
    elif name == 'Color':
        dull = np.repeat(luma(image)[..., None], 3, 2)
    else:
        dull = image.copy()  # smoothed by [[1, 1, 1], [1, 5, 1], [1, 1, 1]] / 13, the border kept
        height, width = image.shape[:2]
        windows = sum(image[y : y + height - 2, x : x + width - 2] for y in range(3) for x in range(3))
        dull[1:-1, 1:-1] = np.floor((windows + 4 * image[1:-1, 1:-1]) / 13 + 0.5)
    return np.clip(dull + factor * (image - dull), 0, 255)


class TestColorEnhance:
    def apply(self, monkeypatch, image, **factors):
        transform = ColorEnhance()
        monkeypatch.setattr(transform, 'draw', lambda: {n: factors.get(n, 1.0) for n in transform.ranges})
        return transform({'img': image})['img']

    @pytest.mark.parametrize(
        ('name', 'factor'),
        [
            ('Brightness', 0.5), ('Brightness', 1.5), ('Contrast', 0.6), ('Contrast', 1.4),
            ('Color', 0.0), ('Color', 1.9), ('Sharpness', 0.0), ('Sharpness', 2.7),
        ],
    )  # fmt: skip
    def test_each_enhancement(self, monkeypatch, pair_results, name, factor):
        result = self.apply(monkeypatch, pair_results['img'], **{name: factor})
        assert result.dtype == np.uint8
        difference = np.abs(result.astype(float) - enhanced(pair_results['img'], name, factor))
        assert difference.max() <= 1.01
        assert np.abs(result.astype(int) - pair_results['img']).max() > 5

    def test_enhancements_are_applied_in_order(self, monkeypatch, pair_results):
        factors = {'Brightness': 1.3, 'Contrast': 0.7, 'Color': 1.5, 'Sharpness': 2.0}
        expected = pair_results['img']
        for name, factor in factors.items():
            expected = np.floor(enhanced(expected, name, factor))
        result = self.apply(monkeypatch, pair_results['img'], **factors)
        assert np.abs(result - expected).max() <= 4

    def test_factor_one_changes_nothing(self, monkeypatch, pair_results):
        np.testing.assert_array_equal(self.apply(monkeypatch, pair_results['img']), pair_results['img'])

    def test_range_of_the_factors(self):
        np.random.seed(0)
        transform = ColorEnhance()
        drawn = [transform.draw() for _ in range(3000)]
        for name, (low, high) in {
            'Brightness': (5, 15), 'Contrast': (5, 15), 'Color': (0, 20), 'Sharpness': (0, 30)
        }.items():  # fmt: skip
            tenths, counts = np.unique([round(10 * factors[name]) for factors in drawn], return_counts=True)
            assert list(tenths) == list(range(low, high + 1))
            expected = len(drawn) / len(tenths)
            assert ((counts - expected) ** 2 / expected).sum() < 2.2 * len(tenths)  # chi-square

    def test_options(self):
        with pytest.raises(ValueError, match='contrast'):
            ColorEnhance(contrast=(1.5, 0.5))


class TestSaltAndPepper:
    def test_count_and_values(self):
        image = np.full((200, 300, 3), 100, np.uint8)
        np.random.seed(0)
        result = SaltAndPepper()({'img': image})['img']
        changed = (result != 100).any(-1)
        assert (image == 100).all()  # the input is left as it was
        assert 85 <= changed.sum() <= 90  # int(0.0015 * 200 * 300) draws, some of them of one pixel
        values = result[changed]
        assert (values == values[:, :1]).all()
        assert set(values[:, 0]) == {0, 255}
        assert 0.3 < (values[:, 0] == 255).mean() < 0.7

    def test_every_pixel_can_be_drawn(self):
        np.random.seed(0)
        result = SaltAndPepper(ratio=1.0)({'img': np.full((3, 4, 3), 100, np.uint8)})
        for _ in range(10):
            result = SaltAndPepper(ratio=1.0)(result)
        assert set(np.unique(result['img'])) == {0, 255}

    def test_small_image_has_none(self):
        image = np.full((20, 30, 3), 100, np.uint8)  # 0.0015 * 600 = 0.9
        np.testing.assert_array_equal(SaltAndPepper()({'img': image})['img'], image)

    def test_options(self):
        with pytest.raises(ValueError, match='ratio'):
            SaltAndPepper(ratio=-0.1)


class TestSyntheticBackground:
    IMAGE = np.array([[[10, 20, 30], [50, 60, 70]], [[200, 100, 0], [0, 0, 255]]], np.uint8)
    HARD = np.array([[255, 255], [0, 0]], np.uint8)

    def apply(self, monkeypatch, kind, color, shift=0.0, mask=None):
        transform = SyntheticBackground()
        monkeypatch.setattr(transform, 'draw', lambda: (kind, np.array(color), shift))
        return transform({'img': self.IMAGE.copy(), 'gt_seg_map': self.HARD if mask is None else mask})['img']

    def test_gray_background_uses_one_level(self, monkeypatch):
        expected = [[[10, 20, 30], [50, 60, 70]], [[7, 7, 7], [7, 7, 7]]]
        np.testing.assert_array_equal(self.apply(monkeypatch, 'gray', [7, 8, 9]), expected)

    def test_any_uses_the_drawn_color(self, monkeypatch):
        np.testing.assert_array_equal(self.apply(monkeypatch, 'any', [7, 8, 9])[1], [[7, 8, 9], [7, 8, 9]])

    def test_similar_moves_the_foregrounds_mean(self, monkeypatch):
        # mean (30, 40, 50); 20 % up: 30 + 0.2 * 225 = 75, 40 + 0.2 * 215 = 83, 50 + 0.2 * 205 = 91
        assert self.apply(monkeypatch, 'similar', [0, 0, 0], 0.2)[1].tolist() == [[75, 83, 91]] * 2
        assert self.apply(monkeypatch, 'similar', [0, 0, 0], -0.1)[1].tolist() == [[27, 36, 45]] * 2
        np.testing.assert_array_equal(self.apply(monkeypatch, 'similar', [0, 0, 0], 0.2)[0], self.IMAGE[0])

    @pytest.mark.parametrize('dtype', [np.uint8, np.float32])
    def test_soft_mask_blends(self, monkeypatch, dtype):
        mask = np.array([[255, 51], [0, 204]], np.uint8)
        mask = mask if dtype == np.uint8 else mask.astype(np.float32) / 255
        result = self.apply(monkeypatch, 'any', [100, 100, 100], mask=mask)
        # 0.2 * (50, 60, 70) + 80 = (90, 92, 94); 0.8 * (0, 0, 255) + 20 = (20, 20, 224); down to whole levels
        expected = np.array([[[10, 20, 30], [90, 92, 94]], [[100, 100, 100], [20, 20, 224]]])
        assert np.abs(result - expected).max() <= 1
        assert (result <= expected).all()

    def test_empty_mask_has_no_mean(self, monkeypatch):
        result = self.apply(monkeypatch, 'similar', [7, 8, 9], 0.1, mask=np.zeros((2, 2), np.uint8))
        assert (result == [7, 8, 9]).all()

    def test_probabilities_of_the_background_kinds(self):
        np.random.seed(0)
        transform = SyntheticBackground()
        kinds, colors, shifts = zip(*(transform.draw() for _ in range(5000)), strict=True)
        for kind, share in (('gray', 0.4), ('similar', 0.4), ('any', 0.2)):
            assert kinds.count(kind) / len(kinds) == pytest.approx(share, abs=0.025)
        assert set(np.ravel(colors)) == set(range(256))
        assert -0.2 <= min(shifts) < -0.19
        assert 0.19 < max(shifts) <= 0.2
        assert np.mean(shifts) == pytest.approx(0, abs=0.01)
        half = SyntheticBackground(prob=0.5)
        assert sum(half.draw()[0] is None for _ in range(2000)) == pytest.approx(1000, abs=100)

    @pytest.mark.parametrize('weights', [(0.5, 0.5), (0.5, 0.5, 0.5), (-0.5, 1.0, 0.5)])
    def test_options(self, weights):
        with pytest.raises(ValueError, match='weights'):
            SyntheticBackground(weights=weights)
