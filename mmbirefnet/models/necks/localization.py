"""The localization module (LM) of Zheng et al., 2024, between backbone and decoder."""

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule, ModuleList
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

from mmbirefnet.registry import MODELS

from ..layers import ReconstructionBlock, resize

STRIDES = (4, 8, 16, 32)
"""Of the maps that :class:`PyramidLocalizationModule` makes."""


@MODELS.register_module()
class LocalizationModule(BaseModule):
    """Add the context of all stages to the deepest one and squeeze it; optionally classify the object.

    Args:
        in_channels: Channels of the four stages, C1 to C4.
        context: Whether the first three stages are resized and concatenated before the deepest one.
        squeeze: Whether a reconstruction block reduces the result to C4 channels.
        aux_classifier: Whether the auxiliary classifier (semantic loss, Eq. 1) is trained.
        num_classes: Classes of the auxiliary classifier; DIS5K's training set has 219.
        loss_cls_weight: Weight of its cross-entropy.
        aspp_cfg: Arguments of the squeeze block's :class:`~mmbirefnet.models.layers.ASPP`.
        norm_cfg: Type of the norms.
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
            raise ValueError('LocalizationModule: context=True needs squeeze=True to come back to C4 channels')
        self.out_channels = tuple(in_channels)
        self.context = context
        self.loss_cls_weight = loss_cls_weight
        self.squeeze = None
        if squeeze:
            channels = sum(in_channels) if context else in_channels[-1]
            self.squeeze = ReconstructionBlock(channels, in_channels[-1], aspp_cfg=aspp_cfg, norm_cfg=norm_cfg)
        self.classifier = nn.Linear(in_channels[-1], num_classes) if aux_classifier else None

    def forward(self, features: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Four maps ``(N, Ci, Hi, Wi)`` to four maps of the same shapes, the last with context."""
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
            features: The backbone's maps.
            data_samples: Their ``class_label`` is the class index.

        Raises:
            ValueError: If a sample has no ``class_label``.
        """
        for sample in data_samples:
            if 'class_label' not in sample:
                raise ValueError(
                    f'{sample.get("img_path")}: the auxiliary classifier needs a class_label; use a data set whose '
                    'file names give it, such as DIS5KDataset, or set aux_classifier=False'
                )
        labels = torch.tensor([sample.class_label for sample in data_samples], device=features[-1].device)
        logits = self.classify(features).float()
        # Divide by the number of known classes, or by 1 if there are none, so that the loss is never NaN.
        loss = F.cross_entropy(logits, labels, ignore_index=-1, reduction='sum') / (labels >= 0).sum().clamp(min=1)
        return dict(loss_cls=self.loss_cls_weight * loss)


@MODELS.register_module()
class PyramidLocalizationModule(LocalizationModule):
    """A localization module, then a pyramid: each map is resized to its stride and projected by a 1x1 convolution.

    Context and squeeze run at the stride of the backbone.

    Args:
        in_channels: Channels of the four maps of the backbone.
        out_channels: Channels of the pyramid, strides 4 to 32; by default those of Swin-L at two scales, as in the
            reference.
        stride: Stride of the backbone's maps, its patch size.
        kwargs: Further arguments of :class:`LocalizationModule`.

    Raises:
        ValueError: If ``in_channels`` or ``out_channels`` are not four.
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
        """Four maps ``(N, Ci, H/stride, W/stride)`` to four maps ``(N, out_channels[i], H/s, W/s)``, s = 4 to 32."""
        pyramid = []
        for x, stride, projection in zip(super().forward(features), STRIDES, self.projections):
            size = [side * self.stride // stride for side in x.shape[2:]]
            # Resize and projection commute: project at the smaller size.
            x = resize(projection(x), size) if stride < self.stride else projection(resize(x, size))
            pyramid.append(x)
        return tuple(pyramid)
