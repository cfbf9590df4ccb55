"""Guidance by a coarse mask: a fourth input channel whose weights start at zero."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from mmseg.models import SegDataPreProcessor
from mmseg.structures import SegDataSample
from torch import Tensor, nn

from mmbirefnet.registry import MODELS

from ..decode_heads import Features
from ..layers import resize
from .birefnet import BiRefNet

IMAGE_CHANNELS = 3


class GuidedConv2d(nn.Conv2d):
    """First convolution of a backbone, plus a convolution of the coarse mask.

    ``y = W * image + b + M * mask``, where M is ``mask_weight`` and starts at zero. It is a separate convolution, so
    that before training the result does not change, not even by rounding. State dicts without ``mask_weight`` load
    with zeros.

    Args:
        conv: The convolution of the image; its parameters become those of this layer.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        options = dict(dilation=conv.dilation, bias=conv.bias is not None, padding_mode=conv.padding_mode)
        super().__init__(
            conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding, **options, device='meta'
        )
        self.weight, self.bias = conv.weight, conv.bias
        self.mask_weight = nn.Parameter(torch.zeros_like(conv.weight[:, :1]))

    def forward(self, x: Tensor) -> Tensor:
        """Convolve ``(N, 3, H, W)`` or, with a mask in [-1, 1] as the last channel, ``(N, 4, H, W)``."""
        y = super().forward(x[:, :IMAGE_CHANNELS])
        if x.shape[1] == IMAGE_CHANNELS:
            return y
        return y + self._conv_forward(x[:, IMAGE_CHANNELS:], self.mask_weight, None)

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args) -> None:
        state_dict.setdefault(f'{prefix}mask_weight', torch.zeros_like(self.mask_weight))
        super()._load_from_state_dict(state_dict, prefix, *args)


@MODELS.register_module()
class GuidedBiRefNet(BiRefNet):
    """BiRefNet with a coarse mask of the object as a second input.

    The mask m in [0, 1] is encoded as ``2 m - 1``, so 0 stands for no mask, or for an uncertain pixel of a mask. The
    backbone gets it as a fourth channel, at both scales; the decode head gets only the image. As in RITM (Sofiiuk et
    al., 2022), a convolution of the mask is added to that of the image. It starts at zero, so a released model returns
    the same logits with any mask until it is trained with masks, see
    :class:`~mmbirefnet.datasets.transforms.CoarseMask`.

    Use it together with :class:`GuidedDataPreProcessor`. Inputs with three channels have no mask.

    Args:
        args, kwargs: See :class:`BiRefNet`.

    Raises:
        ValueError: If the backbone has no ``nn.Conv2d`` with three input channels.
    """

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        found = (name for name, module in self.backbone.named_modules() if _takes_image(module))
        name = next(found, None)
        if name is None:
            raise ValueError(
                f'GuidedBiRefNet: {type(self.backbone).__name__} has no nn.Conv2d that takes {IMAGE_CHANNELS} channels'
            )
        self.backbone.set_submodule(name, GuidedConv2d(self.backbone.get_submodule(name)))
        self._mask_key = f'backbone.{name}.mask_weight'

    def _refer(self, features: tuple[Tensor, ...], inputs: Tensor) -> Features:
        return super()._refer(features, inputs[:, :IMAGE_CHANNELS])

    def complete_state_dict(self, state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
        """Complete a state dict of the plain model with zeros for ``mask_weight``."""
        completed = copy.copy(state_dict)
        completed.setdefault(self._mask_key, torch.zeros_like(self.get_parameter(self._mask_key)))
        return completed


def _takes_image(module: nn.Module) -> bool:
    return type(module) is nn.Conv2d and module.in_channels == IMAGE_CHANNELS


@MODELS.register_module()
class GuidedDataPreProcessor(SegDataPreProcessor):
    """mmseg's data preprocessor, which also appends the coarse mask of each sample as a fourth channel.

    The mask is ``guide`` of the data sample, float ``(1, H, W)`` in [0, 1]. It is resized to the image if its size
    differs, and encoded as ``2 m - 1``. The channel is 0 for samples without a mask, and where images are padded.

    Args:
        args, kwargs: See mmseg's ``SegDataPreProcessor``.
    """

    def forward(self, data: dict, training: bool = False) -> dict[str, Any]:
        """Return ``inputs``, ``(N, 4, H, W)``, and the data samples."""
        shapes = [image.shape[1:] for image in data['inputs']]
        data = super().forward(data, training)
        data['inputs'] = torch.cat([data['inputs'], self._guides(data['inputs'], data['data_samples'], shapes)], 1)
        return data

    @staticmethod
    def _guides(inputs: Tensor, samples: Sequence[SegDataSample] | None, shapes: Sequence[tuple[int, int]]) -> Tensor:
        channel = torch.zeros_like(inputs[:, :1])
        for index, sample in enumerate(samples or ()):
            if 'guide' in sample:
                height, width = shapes[index]
                channel[index, :, :height, :width] = 2 * resize(sample.guide.data[None], (height, width))[0] - 1
        return channel
