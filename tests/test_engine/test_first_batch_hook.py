"""The first batch, drawn as the model gets it."""

import logging
from types import SimpleNamespace

import cv2
import numpy as np
import torch
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from mmbirefnet.engine import FirstBatchHook


def test_draws_image_mask_and_object(tmp_path):
    """A blue image whose right half is the object; only the first batch is drawn."""
    image = torch.zeros(3, 8, 8, dtype=torch.uint8)
    image[0] = 255  # BGR
    sample = SegDataSample()
    mask = torch.zeros(1, 8, 8)
    mask[..., 4:] = 1
    sample.gt_sem_seg = PixelData(data=mask)
    runner = SimpleNamespace(log_dir=str(tmp_path), logger=logging.getLogger('first_batch'))
    hook = FirstBatchHook(width=8)
    hook.before_train_iter(runner, 0, dict(inputs=[image] * 2, data_samples=[sample] * 2))
    sheet = cv2.imread(str(tmp_path / 'first_batch.png'))
    assert sheet.shape == (2 * (8 + 4), 3 * 8 + 2 * 4, 3)
    assert (sheet[:8, :8] == (255, 0, 0)).all()
    np.testing.assert_array_equal(sheet[:8, 12:20, 0], np.repeat([[0] * 4 + [255] * 4], 8, 0))
    np.testing.assert_array_equal(sheet[12:20, 24:32, 0], np.repeat([[0] * 4 + [29] * 4], 8, 0))  # gray of pure blue

    (tmp_path / 'first_batch.png').unlink()
    hook.before_train_iter(runner, 1, dict(inputs=[image], data_samples=[sample]))
    assert not list(tmp_path.iterdir())
