import zlib

import cv2
import numpy as np
import pytest


def write_pair(set_folder, stem, image=None, mask=None, image_suffix='.jpg', mask_suffix='.png'):
    """Write an image and its mask; by default textured, 24x32, with a soft mask."""
    rng = np.random.default_rng(zlib.crc32(stem.encode()))
    image = rng.integers(0, 256, (24, 32, 3), np.uint8) if image is None else image
    mask = rng.integers(0, 256, (24, 32), np.uint8) if mask is None else mask
    paths = [set_folder / 'im' / (stem + image_suffix), set_folder / 'gt' / (stem + mask_suffix)]
    for path, pixels in zip(paths, (image, mask), strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(path), pixels)
    return paths


@pytest.fixture(name='write_pair')
def _write_pair():
    return write_pair


@pytest.fixture
def pair_results():
    """A photograph-like (48, 64) image with a soft mask, as the loading transforms give them."""
    rng = np.random.default_rng(3)
    image = cv2.resize(rng.integers(0, 256, (6, 8, 3), np.uint8), (64, 48), interpolation=cv2.INTER_CUBIC)
    mask = cv2.resize(rng.integers(0, 256, (6, 8), np.uint8), (64, 48), interpolation=cv2.INTER_CUBIC)
    return {
        'img': image,
        'img_shape': (48, 64),
        'ori_shape': (48, 64),
        'gt_seg_map': mask,
        'seg_fields': ['gt_seg_map'],
    }
