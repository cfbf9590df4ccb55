"""Transforms for fine-tuning, by their pixels."""

import cv2
import numpy as np
import pytest

from mmbirefnet.datasets import DichotomousDataset
from mmbirefnet.datasets.transforms import BlurAndCompress, CopyPaste, EdgeCrop, RandomZoomCrop


def numbered(height=40, width=60, mask=None):
    """An image whose first two channels are the row and the column of a pixel."""
    rows, columns = np.mgrid[:height, :width].astype(np.uint8)
    image = np.stack([rows, columns, np.zeros_like(rows)], -1)
    mask = np.zeros((height, width), np.uint8) if mask is None else mask
    return {'img': image, 'gt_seg_map': mask, 'seg_fields': ['gt_seg_map'], 'img_shape': (height, width)}


@pytest.fixture(autouse=True)
def seeded():
    np.random.seed(0)  # noqa: NPY002


class TestRandomZoomCrop:
    def test_windows(self):
        mask = np.zeros((40, 60), np.uint8)
        mask[10:20, 30:50] = 255
        corners, shapes = set(), []
        for _ in range(60):
            results = RandomZoomCrop(prob=1, min_side=0.5, min_object=0.9)(numbered(mask=mask))
            image, height, width = results['img'], *results['img_shape']
            assert image.shape[:2] == results['gt_seg_map'].shape == (height, width)
            assert height >= 20
            assert width >= 30
            top, left = image[0, 0, :2]
            np.testing.assert_array_equal(image, numbered()['img'][top : top + height, left : left + width])
            np.testing.assert_array_equal(results['gt_seg_map'], mask[top : top + height, left : left + width])
            assert (results['gt_seg_map'] > 0).sum() >= 0.9 * 200
            corners.add((top, left))
            shapes.append((height / 40) / (width / 60))
        assert len(corners) > 20
        assert 0.7 < min(shapes) < 0.85
        assert 1.18 < max(shapes) < 1.4

    def test_image_stays_whole_if_no_smaller_window_contains_the_object(self):
        assert RandomZoomCrop(prob=0)(numbered())['img_shape'] == (40, 60)
        mask = np.full((40, 60), 255, np.uint8)
        results = RandomZoomCrop(prob=1, min_side=0.5, max_stretch=1, min_object=1)(numbered(mask=mask))
        assert results['img_shape'] == (40, 60)  # no smaller window holds all of it

    @pytest.mark.parametrize('options', [dict(prob=2), dict(min_side=0), dict(max_stretch=0.5), dict(min_object=-1)])
    def test_options(self, options):
        with pytest.raises(ValueError, match='RandomZoomCrop'):
            RandomZoomCrop(**options)


class TestEdgeCrop:
    def test_crops_are_centered_on_the_edge(self):
        mask = np.zeros((40, 60), np.uint8)
        mask[10:30, 20:40] = 255
        for _ in range(40):
            results = EdgeCrop(size=(10, 8))(numbered(mask=mask))
            assert results['img_shape'] == (8, 10)
            center = results['img'][4, 5, :2].astype(int)  # rows and columns of the pixel that it is about
            inside = (9 <= center[0] <= 30) and (19 <= center[1] <= 40)
            deep = (12 <= center[0] <= 27) and (22 <= center[1] <= 37)
            assert inside, center
            assert not deep, center
            assert 0 < (results['gt_seg_map'] > 0).mean() < 1

    def test_gray_areas_count_as_edge(self):
        mask = np.zeros((40, 60), np.uint8)
        mask[20, 30] = 60
        results = EdgeCrop(size=(9, 9))(numbered(mask=mask))
        assert results['img'][4, 4, :2].tolist() == [20, 30]

    def test_moved_inside_and_small_images(self):
        mask = np.zeros((40, 60), np.uint8)
        mask[0, 0] = 60
        results = EdgeCrop(size=(10, 100))(numbered(mask=mask))
        assert results['img_shape'] == (40, 10)
        assert results['img'][0, 0, :2].tolist() == [0, 0]
        assert EdgeCrop(size=(5, 5), prob=0)(numbered())['img_shape'] == (40, 60)
        assert EdgeCrop(size=(5, 5))(numbered())['img_shape'] == (5, 5)  # no edge


class TestCopyPaste:
    @pytest.fixture
    def other(self, tmp_path):
        """A red object of 10x20 pixels in a blue image, half transparent at its left."""
        image, mask = np.zeros((50, 50, 3), np.uint8), np.zeros((50, 50), np.uint8)
        image[..., 0], mask[5:15, 20:40], mask[5:15, 20:30] = 255, 255, 128
        image[5:15, 20:40] = (0, 0, 200)
        for name, pixels in (('im.png', image), ('gt.png', mask)):
            cv2.imwrite(str(tmp_path / name), pixels)
        return lambda: dict(img_path=str(tmp_path / 'im.png'), seg_map_path=str(tmp_path / 'gt.png'))

    @pytest.mark.parametrize('dtype', [np.uint8, np.float32])
    def test_composite(self, other, dtype):
        mask = np.zeros((40, 60), dtype)
        results = CopyPaste(prob=1, scale=(0.5, 0.5))(dict(numbered(mask=mask), draw_other=other))
        pasted = results['gt_seg_map'].astype(float) / (255 if dtype == np.uint8 else 1)
        rows, columns = pasted.nonzero()
        box = np.s_[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        assert pasted[box].shape == (10, 20)  # half of the shorter side of 40
        np.testing.assert_allclose(pasted[box][:, :10], 128 / 255, atol=0.002)
        assert (pasted[box][:, 10:] == 1).all()
        np.testing.assert_array_equal(results['img'][box][:, 10:], np.broadcast_to((0, 0, 200), (10, 10, 3)))
        left = numbered()['img'][box][:, :10] * (127 / 255) + np.array([0, 0, 200]) * (128 / 255)
        np.testing.assert_allclose(results['img'][box][:, :10], left, atol=0.51)
        outside = pasted == 0
        np.testing.assert_array_equal(results['img'][outside], numbered()['img'][outside])

    def test_pasted_mask_is_composited_over_the_mask(self, other):
        mask = np.full((40, 60), 51, np.uint8)  # 0.2
        results = CopyPaste(prob=1, scale=(0.5, 0.5))(dict(numbered(mask=mask), draw_other=other))
        levels = np.unique(results['gt_seg_map'])
        assert levels.tolist() == [51, 153, 255]  # 0.2, 1 - 0.8 * 127 / 255 = 0.602, 1

    def test_draws_from_the_data_set(self, tmp_path, write_pair):
        for stem in 'abc':
            write_pair(tmp_path, stem)
        steps = [dict(type='mmbirefnet.LoadImage'), dict(type='mmbirefnet.LoadMask'), dict(type='mmbirefnet.CopyPaste')]
        training = DichotomousDataset(data_root=str(tmp_path), pipeline=steps)
        drawn = {training[0]['draw_other']()['img_path'] for _ in range(30)}
        assert drawn == {str(tmp_path / f'im/{stem}.jpg') for stem in 'abc'}
        assert 'draw_other' not in DichotomousDataset(data_root=str(tmp_path), pipeline=[], test_mode=True)[0]
        with pytest.raises(KeyError, match='no draw_other'):
            CopyPaste(prob=1)(numbered())


class TestBlurAndCompress:
    def test_blur_and_jpeg(self):
        image = np.zeros((31, 31, 3), np.uint8)
        image[15, 15] = 255
        results = BlurAndCompress(blur_prob=1, sigma=(1, 1), jpeg_prob=0)(dict(img=image))
        # The center of a Gaussian of deviation 1, normalized on whole pixels: 255 / (sum of exp(-k^2 / 2))^2
        center = 255 / sum(np.exp(-(k**2) / 2) for k in range(-3, 4)) ** 2
        assert results['img'][15, 15] == pytest.approx(center, abs=1)
        compressed = BlurAndCompress(blur_prob=0, jpeg_prob=1, quality=(30, 30))(dict(img=image))['img']
        _, data = cv2.imencode('.jpg', image, [cv2.IMWRITE_JPEG_QUALITY, 30])
        np.testing.assert_array_equal(compressed, cv2.imdecode(data, cv2.IMREAD_COLOR))
        assert (compressed != image).any()

    def test_probabilities(self):
        image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
        step = BlurAndCompress(blur_prob=0.25, jpeg_prob=0.25)
        same = sum((step(dict(img=image.copy()))['img'] == image).all() for _ in range(200))
        assert 90 < same < 135  # 0.75 squared of 200 is 112
