"""BiRefNet (Zheng et al., 2024): encoder, localization module, bilateral reference decoder, soft maps."""

import torch
from mmengine.config import ConfigDict
from mmengine.model import BaseTTAModel
from mmengine.structures import PixelData
from mmseg.models.segmentors import EncoderDecoder
from mmseg.structures import SegDataSample
from mmseg.utils import OptSampleList, SampleList, add_prefix
from torch import Tensor

from mmbirefnet.registry import MODELS

from ..decode_heads import BiRefHead, BiRefOutput, Features
from ..layers import resize


@MODELS.register_module()
class BiRefNet(EncoderDecoder):
    """mmseg's encoder-decoder with multi-scale input, the image passed to the head, and soft maps as predictions.

    ``backbone_channels`` sets ``in_channels`` of neck and head if they have none: for the neck, the channels of the
    backbone (twice as many with multi-scale input), and for the head, those of the maps of the neck.

    Args:
        backbone: Config of a backbone that returns four maps, strides 4 to 32.
        decode_head: Config of the head, usually ``mmbirefnet.BiRefHead``.
        neck: Config of the neck, usually ``mmbirefnet.LocalizationModule``.
        multi_scale_input: Also run the backbone on the image at half size, and concatenate its resized maps to those
            of the full size, which doubles the channels of every stage.
        backbone_channels: Channels of the backbone's four maps at one scale.
        test_cfg: As in mmseg; by default, the whole image is predicted at once.
        kwargs: Further arguments of mmseg's ``EncoderDecoder``.
    """

    fused = False  # set by mmbirefnet.deploy.fuse

    def __init__(
        self,
        backbone: dict,
        decode_head: dict,
        neck: dict | None = None,
        multi_scale_input: bool = True,
        backbone_channels: tuple[int, int, int, int] | None = None,
        test_cfg: dict | None = None,
        **kwargs,
    ) -> None:
        # mmseg reads its values as attributes.
        test_cfg = ConfigDict(mode='whole') if test_cfg is None else ConfigDict(test_cfg)
        if backbone_channels is not None:
            in_channels = [channels * (1 + multi_scale_input) for channels in backbone_channels]
            if neck is None:
                decode_head = {'in_channels': in_channels, **decode_head}
            else:
                neck = {'in_channels': in_channels, **neck}
        super().__init__(backbone=backbone, decode_head=decode_head, neck=neck, test_cfg=test_cfg, **kwargs)
        self.multi_scale_input = multi_scale_input

    def _init_decode_head(self, decode_head: dict) -> None:
        channels = getattr(self.neck, 'out_channels', None) if self.with_neck else None
        if isinstance(channels, (list, tuple)):  # mmseg's necks have a single number
            decode_head = {'in_channels': channels, **decode_head}
        super()._init_decode_head(decode_head)

    def train(self, mode: bool = True) -> 'BiRefNet':
        if mode and self.fused:
            raise RuntimeError('a fused BiRefNet has no norms left to train; train the model it was made from')
        return super().train(mode)

    def extract_backbone_feat(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """Maps of the backbone, ``(N, Ci, H/s, W/s)`` for s = 4, 8, 16, 32, concatenated with those at half scale.

        Args:
            inputs: Normalized images, ``(N, 3, H, W)``.
        """
        features = self.backbone(inputs)
        if self.multi_scale_input:
            height, width = inputs.shape[2:]
            half = self.backbone(resize(inputs, (height // 2, width // 2)))
            features = [torch.cat([x, resize(y, x.shape[2:])], 1) for x, y in zip(features, half)]
        return tuple(features)

    def extract_feat(self, inputs: Tensor) -> Features:
        """The four maps that the head decodes, together with the normalized images ``(N, 3, H, W)``."""
        return self._refer(self.extract_backbone_feat(inputs), inputs)

    def _refer(self, features: tuple[Tensor, ...], inputs: Tensor) -> Features:
        return Features(self.neck(features) if self.with_neck else features, inputs)

    def encode_decode(self, inputs: Tensor, batch_img_metas: list[dict]) -> Tensor:
        """Logits ``(N, C, H, W)`` of normalized images, at the sizes of the metainfo."""
        if not isinstance(self.decode_head, BiRefHead):
            return super().encode_decode(inputs, batch_img_metas)
        return self.decode_head.predict_by_feat(self._forward(inputs), batch_img_metas)

    def _forward(self, inputs: Tensor, data_samples: OptSampleList = None) -> Tensor | BiRefOutput:
        """Logits ``(N, C, H, W)`` of normalized images; in training mode, all supervised maps."""
        if self.training or not isinstance(self.decode_head, BiRefHead):
            return super()._forward(inputs, data_samples)
        features = self.extract_feat(inputs)
        maps, image = self.decode_head._transform_inputs(features), features.image
        del features  # so that the head can free each map after its last use
        return self.decode_head.decode(maps, image).logits

    def complete_state_dict(self, state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
        """Complete a state dict of the plain model so that this model can load it; subclasses add their parameters."""
        return state_dict

    def loss(self, inputs: Tensor, data_samples: SampleList) -> dict[str, Tensor]:
        """Losses of the head and, if it is on, of the neck's auxiliary classifier.

        In evaluation mode, norms use their running statistics and dropout is off.

        Args:
            inputs: Normalized images, ``(N, 3, H, W)``.
            data_samples: Masks in ``gt_sem_seg``; ``class_label`` for the classifier.

        Raises:
            RuntimeError: If the model is fused, since it has no layers for side outputs.
        """
        if self.fused:
            raise RuntimeError('a fused BiRefNet has no side outputs for a loss; use the model it was made from')
        features = self.extract_backbone_feat(inputs)
        x = self._refer(features, inputs)
        losses = self._decode_head_forward_train(x, data_samples)
        if self.with_auxiliary_head:
            losses.update(self._auxiliary_head_forward_train(x, data_samples))
        if self.with_neck and getattr(self.neck, 'classifier', None) is not None:
            losses.update(add_prefix(self.neck.loss(features, data_samples), 'neck'))
        return losses

    def postprocess_result(self, seg_logits: Tensor, data_samples: OptSampleList = None) -> SampleList:
        """Convert logits to data samples with probabilities at the original sizes of the images.

        The sigmoid comes before the resize, as in the reference; mmseg resizes logits.

        Args:
            seg_logits: Logits, ``(N, C, H, W)``.
            data_samples: Samples to fill. Their metainfo describes how the image was padded, flipped and resized.

        Returns:
            Samples whose ``seg_logits`` is the probability in [0, 1], ``(1, H, W)``, and whose ``pred_sem_seg`` is 1
            where it exceeds the threshold of the head. With several classes, the result of mmseg.
        """
        if self.out_channels > 1:
            return super().postprocess_result(seg_logits, data_samples)
        if data_samples is None:
            data_samples = [SegDataSample() for _ in seg_logits]
        for sample, logits in zip(data_samples, seg_logits.split(1)):
            logits = self._undo_padding_and_flip(logits, sample)
            size = tuple(sample.get('ori_shape', logits.shape[2:]))[:2]
            probability = resize(logits.float().sigmoid(), size)
            sample.seg_logits = PixelData(data=probability[0])
            sample.pred_sem_seg = PixelData(data=(probability[0] > self.decode_head.threshold).to(probability))
        return data_samples

    @staticmethod
    def _undo_padding_and_flip(logits: Tensor, sample: SegDataSample) -> Tensor:
        left, right, top, bottom = sample.get('img_padding_size', sample.get('padding_size', (0, 0, 0, 0)))
        logits = logits[..., top : logits.shape[2] - bottom, left : logits.shape[3] - right]
        if sample.get('flip'):
            logits = logits.flip(3 if sample.flip_direction == 'horizontal' else 2)
        return logits


@MODELS.register_module()
class SoftMapTTAModel(BaseTTAModel):
    """Mean of the probabilities of all augmented views.

    mmseg's ``SegTTAModel`` treats ``seg_logits`` as logits and would apply a second sigmoid.
    """

    def merge_preds(self, data_samples_list: list[SampleList]) -> SampleList:
        """Average the views ``data_samples_list[image][view]`` of each image, whose flips are already undone."""
        merged = []
        for views in data_samples_list:
            probability = torch.stack([view.seg_logits.data for view in views]).mean(0)
            sample = views[0]
            sample.seg_logits = PixelData(data=probability)
            threshold = self.module.decode_head.threshold
            sample.pred_sem_seg = PixelData(data=(probability > threshold).to(probability))
            merged.append(sample)
        return merged
