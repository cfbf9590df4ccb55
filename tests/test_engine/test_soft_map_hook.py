"""Figures during validation."""

from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from mmbirefnet.engine.hooks import SoftMapHook
from mmbirefnet.visualization import SoftMapVisualizer


@pytest.fixture
def samples(tmp_path):
    out = []
    for name in 'abcd':
        path = tmp_path / f'{name}.jpg'
        cv2.imwrite(str(path), np.zeros((8, 10, 3), np.uint8))
        sample = SegDataSample(metainfo=dict(img_path=str(path)))
        sample.seg_logits = PixelData(data=torch.rand(1, 8, 10))
        out.append(sample)
    return out


def validate(hook, samples, visualizer, epoch):
    runner = SimpleNamespace(visualizer=visualizer, epoch=epoch)
    hook.before_val_epoch(runner)
    for index in range(0, len(samples), 2):
        hook.after_val_iter(runner, index, {}, samples[index : index + 2])


def test_draws_the_same_first_images_each_time(tmp_path, samples):
    visualizer = SoftMapVisualizer(vis_backends=[dict(type='LocalVisBackend')], save_dir=str(tmp_path / 'out'))
    hook = SoftMapHook(images=3, interval=2)
    for epoch in (5, 10, 15):
        validate(hook, samples, visualizer, epoch)
    drawn = sorted(p.name for p in (tmp_path / 'out').rglob('*.png'))
    assert drawn == sorted(f'val_{name}_{epoch}.png' for name in 'abc' for epoch in (5, 15))


def test_interval_0_is_rejected():
    with pytest.raises(ValueError, match='interval'):
        SoftMapHook(interval=0)
