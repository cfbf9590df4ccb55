import cv2
import numpy as np
import pytest

from mmbirefnet.datasets.transforms import RandomCenterCrop, RandomRotate, Resize

SOFT = np.array([[0, 10, 20, 30], [40, 50, 60, 70], [80, 90, 100, 110], [120, 130, 140, 255]], np.uint8)


def results_of(mask, image=None):
    image = np.repeat(mask[..., None], 3, 2) if image is None else image
    return {'img': image, 'gt_seg_map': mask, 'seg_fields': ['gt_seg_map'], 'img_shape': image.shape[:2]}


class TestResize:
    def test_halving_averages_blocks(self):
        results = Resize(scale=(2, 2))(results_of(SOFT))
        expected = [[25, 45], [105, 151]]  # (100 + 110 + 140 + 255) / 4 = 151.25
        np.testing.assert_array_equal(results['gt_seg_map'], expected)
        np.testing.assert_array_equal(results['img'], np.repeat(np.array(expected)[..., None], 3, 2))
        assert results['img_shape'] == (2, 2)
        assert results['scale_factor'] == (0.5, 0.5)

    def test_doubling_interpolates_with_weights_3_to_1(self):
        results = Resize(scale=(4, 1))(results_of(np.array([[0, 200]], np.uint8)))
        np.testing.assert_array_equal(results['gt_seg_map'], [[0, 50, 150, 200]])

    def test_float_masks(self):
        results = Resize(scale=(2, 2))(results_of(SOFT.astype(np.float32) / 255, np.zeros((4, 4, 3), np.uint8)))
        np.testing.assert_allclose(results['gt_seg_map'], np.array([[25, 45], [105, 151.25]]) / 255, rtol=1e-6)

    def test_photograph_equals_opencv(self, pair_results):
        image, mask = pair_results['img'], pair_results['gt_seg_map']
        results = Resize(scale=(96, 40))(pair_results)
        np.testing.assert_array_equal(results['img'], cv2.resize(image, (96, 40)))
        np.testing.assert_array_equal(results['gt_seg_map'], cv2.resize(mask, (96, 40)))

    def test_keep_ratio(self, pair_results):
        results = Resize(scale=(32, 32), keep_ratio=True)(pair_results)
        assert results['img'].shape[:2] == results['gt_seg_map'].shape == (24, 32)
        assert len(np.unique(results['gt_seg_map'])) > 30  # still soft


def cubic_rotation(pixels, degrees, x, y):
    """One pixel of a counter-clockwise rotation about the center, by Keys' cubic convolution with a = -1."""

    def kernel(t):
        t = abs(t)
        return t**3 - 2 * t**2 + 1 if t < 1 else -(t**3) + 5 * t**2 - 8 * t + 4

    height, width = pixels.shape
    angle = np.deg2rad(degrees)
    dx, dy = x + 0.5 - width / 2, y + 0.5 - height / 2
    source_x = np.cos(angle) * dx - np.sin(angle) * dy + width / 2 - 0.5
    source_y = np.sin(angle) * dx + np.cos(angle) * dy + height / 2 - 0.5
    left, top = int(np.floor(source_x)) - 1, int(np.floor(source_y)) - 1
    return sum(
        float(pixels[row, column]) * kernel(source_x - column) * kernel(source_y - row)
        for row in range(top, top + 4)
        for column in range(left, left + 4)
    )


class TestRandomRotate:
    def rotate(self, monkeypatch, degrees, results):
        transform = RandomRotate()
        monkeypatch.setattr(transform, 'draw', lambda: degrees)
        return transform(results)

    def test_quarter_turn_is_counter_clockwise(self, monkeypatch):
        results = self.rotate(monkeypatch, 90, results_of(SOFT))
        np.testing.assert_array_equal(results['gt_seg_map'], np.rot90(SOFT))
        np.testing.assert_array_equal(results['img'][..., 1], np.rot90(SOFT))

    @pytest.mark.parametrize('degrees', [-15, 7])
    def test_bicubic_values_of_image_and_mask(self, monkeypatch, pair_results, degrees):
        image, mask = pair_results['img'], pair_results['gt_seg_map']
        results = self.rotate(monkeypatch, degrees, dict(pair_results))
        assert results['img'].shape == image.shape
        for x, y in ((20, 15), (32, 24), (45, 30), (30, 35)):
            assert results['gt_seg_map'][y, x] == pytest.approx(cubic_rotation(mask, degrees, x, y), abs=1)
            for channel in range(3):
                expected = cubic_rotation(image[..., channel], degrees, x, y)
                assert results['img'][y, x, channel] == pytest.approx(expected, abs=1)

    def test_corners_are_black(self, monkeypatch):
        results = self.rotate(monkeypatch, 14, results_of(np.full((40, 60), 255, np.uint8)))
        for key in ('img', 'gt_seg_map'):
            for row, column in ((0, 0), (0, -1), (-1, 0), (-1, -1)):
                assert (results[key][row, column] == 0).all()
            assert (results[key][10:30, 15:45] == 255).all()

    def test_float_masks_stay_within_0_and_1(self, monkeypatch):
        hard = np.zeros((30, 30), np.float32)
        hard[:, 15:] = 1
        mask = self.rotate(monkeypatch, 9, results_of(hard, np.zeros((30, 30, 3), np.uint8)))['gt_seg_map']
        assert mask.dtype == np.float32
        assert (mask.min(), mask.max()) == (0, 1)
        assert ((mask > 0.1) & (mask < 0.9)).sum() > 10

    def test_probability_and_angles(self):
        np.random.seed(0)  # noqa: NPY002
        transform = RandomRotate()
        drawn = [transform.draw() for _ in range(5000)]
        angles = [angle for angle in drawn if angle is not None]
        assert set(angles) == set(range(-15, 15))
        assert len(angles) / len(drawn) == pytest.approx(0.2, abs=0.02)
        assert np.mean(angles) == pytest.approx(-0.5, abs=0.9)
        never = RandomRotate(prob=0.0)
        assert {never.draw() for _ in range(20)} == {None}

    def test_options(self):
        with pytest.raises(ValueError, match='prob'):
            RandomRotate(prob=1.5)
        with pytest.raises(ValueError, match='max_degrees'):
            RandomRotate(max_degrees=0)


class TestRandomCenterCrop:
    def test_window_is_central(self, monkeypatch):
        mask = np.arange(100, dtype=np.uint8).reshape(10, 10)
        transform = RandomCenterCrop()
        monkeypatch.setattr(transform, 'draw', lambda height, width: (6, 7))
        results = transform(results_of(mask))
        # rows (10 - 6) / 2 = 2 to 8; columns (10 - 7) // 2 = 1 to (10 + 7) // 2 = 8
        np.testing.assert_array_equal(results['gt_seg_map'], mask[2:8, 1:8])
        np.testing.assert_array_equal(results['img'][..., 2], mask[2:8, 1:8])
        assert results['img_shape'] == (6, 7)

    def test_range_of_the_crop_sizes(self):
        np.random.seed(0)  # noqa: NPY002
        transform = RandomCenterCrop()
        heights, widths = zip(*(transform.draw(100, 200) for _ in range(500)), strict=True)
        assert (set(heights), set(widths)) == (set(range(90, 100)), set(range(190, 200)))  # 10 % of the shorter side

    def test_options(self):
        with pytest.raises(ValueError, match='max_border'):
            RandomCenterCrop(max_border=1)
