"""Conversion of the arrays of a pipeline to the input of the model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from mmengine.structures import PixelData
from mmseg.datasets.transforms import PackSegInputs

from mmbirefnet.registry import TRANSFORMS

from .decode import mask_to_float

META_KEYS = (
    'img_path',
    'seg_map_path',
    'set_name',
    'stem',
    'class_name',
    'class_label',
    'ori_shape',
    'img_shape',
    'pad_shape',
    'scale_factor',
    'flip',
    'flip_direction',
)


@TRANSFORMS.register_module()
class PackDichotomousInputs(PackSegInputs):
    """mmseg's ``PackSegInputs`` for soft masks, which mmseg would cast to integers.

    Returns ``inputs``, uint8 (3, H, W), and ``data_samples``, whose ``gt_sem_seg.data`` is float32 (1, H, W) in [0, 1].
    A coarse mask becomes ``guide.data`` in the same format.

    Args:
        meta_keys: Keys of the results that are copied to the metainfo of the sample if they exist.
    """

    def __init__(self, meta_keys: Sequence[str] = META_KEYS) -> None:
        super().__init__(meta_keys)

    def transform(self, results: dict) -> dict:
        packed = super().transform({key: value for key, value in results.items() if key != 'gt_seg_map'})
        for key, name in (('gt_seg_map', 'gt_sem_seg'), ('guide', 'guide')):
            if key in results:
                mask = torch.from_numpy(np.ascontiguousarray(mask_to_float(results[key])))
                setattr(packed['data_samples'], name, PixelData(data=mask[None]))
        return packed
