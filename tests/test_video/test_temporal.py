"""The temporal smoother on synthetic motion."""

import cv2
import numpy as np

from mmbirefnet.video.temporal import TemporalSmoother


def moving_texture(index):
    texture = cv2.resize(np.random.default_rng(0).integers(0, 255, (20, 30), np.uint8), (240, 160))
    frame = np.roll(texture, 3 * index, 1)
    inside = np.zeros((160, 240), np.float32)
    inside[40:120, 60 + 3 * index : 140 + 3 * index] = 1
    return np.repeat(frame[..., None], 3, 2), inside


def test_smoothing_steadies_noisy_maps_of_moving_objects():
    rng = np.random.default_rng(1)
    smooth = TemporalSmoother(0.7)
    raw, steadied = [], []
    for index in range(12):
        rgb, inside = moving_texture(index)
        noisy = (inside + rng.normal(0, 0.2, inside.shape)).astype(np.float32)
        average = smooth(rgb, noisy)
        raw.append(np.abs(noisy - inside)[:, 20:220].mean())
        steadied.append(np.abs(average - inside)[:, 20:220].mean())
    assert np.mean(steadied[4:]) < 0.65 * np.mean(raw[4:])


def test_smoothing_ends_at_a_cut():
    smooth = TemporalSmoother(0.9)
    rng = np.random.default_rng(2)
    smooth(rng.integers(0, 100, (64, 64, 3), np.uint8), np.ones((64, 64), np.float32))
    after = smooth(np.full((64, 64, 3), 255, np.uint8), np.zeros((64, 64), np.float32))
    assert after.max() < 1e-3


def test_smoothing_keeps_a_still_video_and_its_average():
    rgb, inside = moving_texture(0)
    smooth = TemporalSmoother(0.5)
    smooth(rgb, inside)
    np.testing.assert_allclose(smooth(rgb, inside), inside, atol=1e-5)
    np.testing.assert_allclose(smooth(rgb, np.zeros_like(inside)), 0.5 * inside, atol=1e-5)
    assert TemporalSmoother(0)(rgb, inside) is inside
