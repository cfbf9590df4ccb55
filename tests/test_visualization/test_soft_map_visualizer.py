"""Panels, the visualizer under mmsegmentation's hook, and contact sheets."""

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.structures import PixelData
from mmseg.engine.hooks import SegVisualizationHook
from mmseg.structures import SegDataSample

from mmbirefnet.registry import VISUALIZERS
from mmbirefnet.visualization import SheetRow, SoftMapVisualizer, draw_contact_sheet
from mmbirefnet.visualization.sheets import BACKGROUND, GAP, bounded_size, error_panel


def make_sample(height=20, width=30, path='photo.jpg'):
    sample = SegDataSample(metainfo=dict(img_path=path))
    ramp = torch.linspace(0, 1, width).expand(1, height, width)
    sample.seg_logits = PixelData(data=ramp.clone())
    sample.gt_sem_seg = PixelData(data=(ramp > 0.5).float())
    return sample


def test_panels_hold_image_mask_and_map():
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    figure = SoftMapVisualizer().draw(image, make_sample())
    assert figure.shape == (20, 3 * 30 + 2 * GAP, 3)
    np.testing.assert_array_equal(figure[:, :30], image)
    assert (figure[:, 30 : 30 + GAP] == BACKGROUND).all()
    np.testing.assert_array_equal(figure[0, 34:64, 0], np.repeat([0, 255], 15))
    np.testing.assert_array_equal(figure[0, 68:, 1], np.round(np.linspace(0, 1, 30) * 255))  # soft, not thresholded


def test_what_is_absent_or_switched_off_is_left_out():
    image = np.zeros((20, 30, 3), np.uint8)
    visualizer, sample = SoftMapVisualizer(), make_sample()
    assert visualizer.draw(image, sample, draw_gt=False).shape[1] == 2 * 30 + GAP
    assert visualizer.draw(image, None).shape[1] == 30
    del sample.gt_sem_seg
    assert visualizer.draw(image, sample).shape[1] == 2 * 30 + GAP


def test_large_images_are_reduced():
    assert bounded_size((3000, 1500), 1000) == (1000, 500)
    assert bounded_size((300, 150), 1000) == (300, 150)
    figure = SoftMapVisualizer(longest=50).draw(np.zeros((100, 200, 3), np.uint8), make_sample(100, 200))
    assert figure.shape == (25, 3 * 50 + 2 * GAP, 3)


def test_under_mmsegmentations_hook(tmp_path):
    # As test.py --show-dir sets it up.
    visualizer = VISUALIZERS.build(
        dict(
            type='mmbirefnet.SoftMapVisualizer',
            name='soft_map_test',
            vis_backends=[dict(type='LocalVisBackend')],
            save_dir=str(tmp_path / 'shown'),
        )
    )
    cv2.imwrite(str(tmp_path / 'photo.png'), np.full((20, 30, 3), (10, 20, 30), np.uint8))
    hook = SegVisualizationHook(draw=True, interval=1)
    hook._visualizer = visualizer
    sample = make_sample(path=str(tmp_path / 'photo.png'))
    hook.after_test_iter(ConfigDict(iter=0), 0, {}, [sample])
    (file,) = (tmp_path / 'shown').rglob('*.png')
    drawn = cv2.imread(str(file))
    assert drawn.shape == (20, 3 * 30 + 2 * GAP, 3)
    np.testing.assert_array_equal(drawn[3, 3], [10, 20, 30])


def test_out_file(tmp_path):
    image = np.full((20, 30, 3), (200, 20, 30), np.uint8)
    SoftMapVisualizer().add_datasample('x', image, make_sample(), out_file=str(tmp_path / 'x.png'))
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / 'x.png'))[0, 0], [30, 20, 200])
    with pytest.raises(OSError, match='none/x.png'):
        SoftMapVisualizer().add_datasample('x', image, make_sample(), out_file=str(tmp_path / 'none' / 'x.png'))


def test_error_panel_colors_false_positives_and_false_negatives():
    score_map, mask = np.array([[0, 255, 0, 255]], np.uint8), np.array([[0, 0, 255, 255]], np.uint8)
    right, much, little, hit = error_panel(score_map, mask)[0].tolist()
    assert right == [0, 0, 0]
    assert much == [255, 0, 0]
    assert little[2] == 255
    assert max(little[:2]) < 100
    assert len(set(hit)) == 1


def test_contact_sheet():
    image = np.full((60, 40, 3), 90, np.uint8)
    mask = np.full((60, 40), 255, np.uint8)
    rows = [SheetRow(image, mask, mask), SheetRow(None, mask[:20], mask[:20], 'worst: Häuschen')]
    sheet = draw_contact_sheet(rows, width=20, with_error=True)
    caption = 22
    assert sheet.shape == (30 + GAP + caption + 10 + GAP, 4 * 20 + 3 * GAP, 3)
    assert (sheet[:30, :20] == 90).all()
    assert (sheet[:30, 24:44] == 255).all()
    assert (sheet[34 : 34 + caption] < 128).any()  # something is written
    with pytest.raises(ValueError, match='at least one'):
        draw_contact_sheet([])
