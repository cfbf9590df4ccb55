"""The localization module of Zheng et al., 2024, for plain transformers, whose maps all have one stride."""

from mmengine.model import ModuleList
from torch import Tensor, nn

from mmbirefnet.registry import MODELS

from ..layers import resize
from .localization import LocalizationModule

STRIDES = (4, 8, 16, 32)


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
