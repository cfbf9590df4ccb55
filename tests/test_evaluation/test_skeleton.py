"""The fast skeleton against scikit-image's, and its cache."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from skimage.morphology import skeletonize as reference

from mmbirefnet.evaluation import skeleton_cache
from mmbirefnet.evaluation.functional.skeleton import skeletonize
from mmbirefnet.evaluation.skeleton_cache import SkeletonCache, default_cache_dir, open_skeleton_cache


def test_equals_scikit_image():
    rng = np.random.default_rng(0)
    for _ in range(200):
        shape = tuple(rng.integers(1, 90, 2))
        field = rng.random(shape)
        sigma = rng.choice([0, 1, 3])
        field = cv2.GaussianBlur(field, (0, 0), float(sigma)).reshape(shape) if sigma else field
        mask = field > np.quantile(field, rng.choice([0.02, 0.1, 0.4, 0.7]))
        np.testing.assert_array_equal(skeletonize(mask), reference(mask))


@pytest.mark.parametrize('value', [False, True])
def test_empty_and_full(value):
    mask = np.full((31, 47), value)
    np.testing.assert_array_equal(skeletonize(mask), reference(mask))


@pytest.fixture
def mask():
    image = np.zeros((101, 83), np.uint8)
    cv2.circle(image, (40, 50), 30, 1, 7)
    return image.astype(bool)


def test_cache_is_keyed_by_content(tmp_path, mask, monkeypatch):
    calls = []
    monkeypatch.setattr(skeleton_cache, 'skeletonize', lambda m: calls.append(1) or skeletonize(m))
    cache = SkeletonCache(tmp_path / 'new')
    for same in (mask, mask.copy(), np.asfortranarray(mask)):
        np.testing.assert_array_equal(cache.skeleton(same), reference(mask))
    assert len(calls) == 1
    # As many bits, but another shape.
    np.testing.assert_array_equal(cache.skeleton(mask.reshape(83, 101)), reference(mask.reshape(83, 101)))
    assert len(list((tmp_path / 'new').iterdir())) == len(calls) == 2


def test_damaged_file_is_written_again(tmp_path, mask):
    cache = SkeletonCache(tmp_path)
    cache.skeleton(mask)
    (file,) = tmp_path.iterdir()
    for damage in (b'', file.read_bytes()[:-9], b'no zlib'):
        whole = SkeletonCache(tmp_path).skeleton(mask)
        good = file.read_bytes()
        file.write_bytes(damage)
        np.testing.assert_array_equal(cache.skeleton(mask), whole)
        assert file.read_bytes() == good


def test_default_folder_and_one_that_cannot_be_written(tmp_path, monkeypatch, mask):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    assert default_cache_dir() == tmp_path / 'mmbirefnet' / 'skeletons'
    assert open_skeleton_cache('auto').folder == default_cache_dir()
    (tmp_path / 'file').touch()
    with pytest.raises(OSError, match='XDG_CACHE_HOME'):
        open_skeleton_cache(tmp_path / 'file')
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'file'))
    assert open_skeleton_cache('auto') is None


def test_a_user_without_a_home_folder(monkeypatch):
    def no_home():
        raise RuntimeError('Could not determine home directory.')

    monkeypatch.delenv('XDG_CACHE_HOME', raising=False)
    monkeypatch.setattr(Path, 'home', no_home)
    assert open_skeleton_cache('auto') is None


def test_a_disk_that_fills_up_costs_only_time(tmp_path, monkeypatch, mask):
    cache, wanted = SkeletonCache(tmp_path), skeletonize(mask)

    def full(source, target):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(os, 'replace', full)
    for _ in range(2):
        np.testing.assert_array_equal(cache.skeleton(mask), wanted)
    assert not list(tmp_path.iterdir())
