"""Test-time augmentation of soft maps."""

import torch
from mmengine.model import BaseTTAModel
from mmengine.structures import PixelData
from mmseg.utils import SampleList

from mmbirefnet.registry import MODELS


@MODELS.register_module()
class SoftMapTTAModel(BaseTTAModel):
    """Mean of the probabilities of all augmented views.

    mmseg's ``SegTTAModel`` takes ``seg_logits`` for logits and applies a second sigmoid.
    """

    def merge_preds(self, data_samples_list: list[SampleList]) -> SampleList:
        """Merge the views of each image; ``data_samples_list[image][view]``, flips already undone."""
        merged = []
        for views in data_samples_list:
            probability = torch.stack([view.seg_logits.data for view in views]).mean(0)
            sample = views[0]
            sample.seg_logits = PixelData(data=probability)
            threshold = self.module.decode_head.threshold
            sample.pred_sem_seg = PixelData(data=(probability > threshold).to(probability))
            merged.append(sample)
        return merged
