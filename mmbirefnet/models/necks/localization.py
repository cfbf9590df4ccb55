"""The localization module (LM) of Zheng et al., 2024, between backbone and decoder."""

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule, ModuleList
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

from mmbirefnet.registry import MODELS

from ..layers import ReconstructionBlock, resize

STRIDES = (4, 8, 16, 32)
"""Strides of the maps that :class:`PyramidLocalizationModule` returns."""


@MODELS.register_module()
class LocalizationModule(BaseModule):
    """Localization module (Zheng et al., 2024): adds the context of all stages to the deepest map, and squeezes it.

    Args:
        in_channels: Channels of the four stages, C1 to C4.
        context: Whether the first three stages are resized and concatenated before the deepest one.
        squeeze: Whether a reconstruction block reduces the result to C4 channels.
        aux_classifier: Whether an auxiliary classifier of the object (semantic loss, Eq. 1) is trained.
        num_classes: Classes of the auxiliary classifier; the training set of DIS5K has 219.
        loss_cls_weight: Weight of its cross-entropy.
        aspp_cfg: Arguments of the :class:`~mmbirefnet.models.layers.ASPP` in the reconstruction block.
        norm_cfg: Type of the norms.

    Raises:
        ValueError: If ``context`` is on without ``squeeze``.
    """

    def __init__(
        self,
        in_channels: tuple[int, int, int, int],
        context: bool = True,
        squeeze: bool = True,
        aux_classifier: bool = False,
        num_classes: int = 219,
        loss_cls_weight: float = 5.0,
        aspp_cfg: dict | None = dict(),
        norm_cfg: dict = dict(type='BN'),
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if context and not squeeze:
            raise ValueError('LocalizationModule: context=True needs squeeze=True to reduce the map to C4 channels')
        self.out_channels = tuple(in_channels)
        self.context = context
        self.loss_cls_weight = loss_cls_weight
        self.squeeze = None
        if squeeze:
            channels = sum(in_channels) if context else in_channels[-1]
            self.squeeze = ReconstructionBlock(channels, in_channels[-1], aspp_cfg=aspp_cfg, norm_cfg=norm_cfg)
        self.classifier = nn.Linear(in_channels[-1], num_classes) if aux_classifier else None

    def forward(self, features: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return the four maps ``(N, Ci, Hi, Wi)`` with context in the last one; shapes stay the same."""
        *shallow, x = features
        if self.context:
            x = torch.cat([*(resize(feature, x.shape[2:]) for feature in shallow), x], 1)
        if self.squeeze is not None:
            x = self.squeeze(x)
        return (*shallow, x)

    def classify(self, features: tuple[Tensor, ...]) -> Tensor:
        """Class logits ``(N, num_classes)`` from the backbone's deepest map, before the context."""
        return self.classifier(features[-1].mean((2, 3)))

    def loss(self, features: tuple[Tensor, ...], data_samples: list[BaseDataElement]) -> dict[str, Tensor]:
        """Cross-entropy of the auxiliary classifier; images of unknown class (-1) are ignored.

        Args:
            features: Maps of the backbone.
            data_samples: Samples whose ``class_label`` is the class index.

        Raises:
            ValueError: If a sample has no ``class_label``.
        """
        for sample in data_samples:
            if 'class_label' not in sample:
                raise ValueError(
                    f'{sample.get("img_path")}: the auxiliary classifier needs a class_label; use a data set whose '
                    'file names give it, such as DIS5KDataset, or set aux_classifier=False'
                )
        device = features[-1].device
        labels = torch.stack([torch.as_tensor(sample.class_label, device=device) for sample in data_samples])
        logits = self.classify(features).float()
        # Divide by the number of known classes, or by 1 if there are none, so that the loss is never NaN.
        loss = F.cross_entropy(logits, labels, ignore_index=-1, reduction='sum') / (labels >= 0).sum().clamp(min=1)
        return dict(loss_cls=self.loss_cls_weight * loss)


@MODELS.register_module()
class PyramidLocalizationModule(LocalizationModule):
    """Localization module for plain transformers, whose maps have one stride, such as DINOv3.

    Context and squeeze run at the stride of the backbone. Each map is then resized to its stride (4, 8, 16, 32) and
    projected by a 1x1 convolution.

    Args:
        in_channels: Channels of the four maps of the backbone.
        out_channels: Channels of the pyramid, strides 4 to 32; by default those of Swin-L at two scales, as in the
            reference.
        stride: Stride of the backbone's maps, its patch size.
        kwargs: Further arguments of :class:`LocalizationModule`.

    Raises:
        ValueError: If ``in_channels`` or ``out_channels`` do not have four entries.
    """

    def __init__(
        self,
        in_channels: tuple[int, int, int, int],
        out_channels: tuple[int, int, int, int] = (384, 768, 1536, 3072),
        stride: int = 16,
        **kwargs,
    ) -> None:
        if len(in_channels) != 4 or len(out_channels) != 4:
            raise ValueError(
                f'PyramidLocalizationModule: in_channels={tuple(in_channels)} and out_channels={tuple(out_channels)} '
                'must name four maps each'
            )
        super().__init__(in_channels, **kwargs)
        self.out_channels = tuple(out_channels)
        self.stride = stride
        self.projections = ModuleList(nn.Conv2d(i, o, 1) for i, o in zip(in_channels, out_channels))

    def forward(self, features: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Convert four maps ``(N, Ci, H/stride, W/stride)`` to ``(N, out_channels[i], H/s, W/s)``, s = 4, 8, 16, 32."""
        pyramid = []
        for x, stride, projection in zip(super().forward(features), STRIDES, self.projections):
            size = [side * self.stride // stride for side in x.shape[2:]]
            # Resize and projection commute: project at the smaller size.
            x = resize(projection(x), size) if stride < self.stride else projection(resize(x, size))
            pyramid.append(x)
        return tuple(pyramid)
