"""Transforms of mmcv and mmseg that would fill soft masks with foreground."""

import numpy as np
import pytest
from mmengine.registry import DATASETS

LOAD = [dict(type='mmbirefnet.LoadImage'), dict(type='mmbirefnet.LoadMask')]
PACK = [dict(type='mmbirefnet.PackDichotomousInputs')]


@pytest.fixture
def build(tmp_path, write_pair):
    def build(*steps):
        write_pair(tmp_path, 'a')
        return DATASETS.build(dict(type='mmbirefnet.DichotomousDataset', data_root=str(tmp_path), pipeline=[*steps]))

    return build


@pytest.mark.parametrize(
    ('step', 'message'),
    [
        (dict(type='Pad', size=(96, 96)), r"Pad: pad_val\['seg'\]=255 would .* Fix: Pad\(pad_val=dict\(img=0, seg=0"),
        (dict(type='Pad', size=(96, 96), pad_val=dict(img=9)), r"pad_val\['seg'\]=255"),
        (dict(type='Pad', size=(96, 96), pad_val=7), r"pad_val\['seg'\]=255"),
        (dict(type='RandomRotate', prob=1.0, degree=20), r'Rotate: seg_pad_val=255 .* Fix: RandomRotate\(seg_pad_'),
        (dict(type='RandomCutOut', prob=1.0, n_holes=1, cutout_shape=(9, 9), seg_fill_in=255), 'seg_fill_in=255'),
        (dict(type='CenterCrop', crop_size=(99, 99), auto_pad=True), "pad_cfg=255 .*pad_val=dict"),
        (dict(type='RandomApply', transforms=[dict(type='Pad', size=(96, 96))]), r"pad_val\['seg'\]=255"),
        (dict(type='RandomChoice', transforms=[[dict(type='Pad', size=(96, 96))], []]), r"pad_val\['seg'\]=255"),
    ],
)  # fmt: skip
def test_transforms_that_ruin_masks_are_rejected(build, step, message):
    with pytest.raises(ValueError, match=message):
        build(*LOAD, step, *PACK)


def test_padding_with_background(build):
    dataset = build(
        *LOAD,
        dict(type='RandomRotate', prob=1.0, degree=20, seg_pad_val=0),
        dict(type='Pad', size=(96, 96), pad_val=dict(img=0, seg=0)),
        *PACK,
    )
    mask = dataset[0]['data_samples'].gt_sem_seg.data[0].numpy()
    assert mask.shape == (96, 96)
    assert not mask[-1].any()


def test_an_image_may_be_padded_before_its_mask_is_loaded(build):
    dataset = build(LOAD[0], dict(type='Pad', size=(96, 96)), LOAD[1], *PACK)
    assert np.asarray(dataset[0]['inputs']).shape == (3, 96, 96)
