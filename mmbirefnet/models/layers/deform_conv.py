"""DCNv2 layer (Zhu et al., 2019) with a choice of how it is computed."""

from __future__ import annotations

import mmcv.ops
import torch
from torch import Tensor

from mmbirefnet.registry import MODELS

from .deform_conv_torch import modulated_deform_conv2d

# torch.compile leaves them alone: it cannot see into mmcv's kernel, and would unroll the loop over chunks.
BACKENDS = {
    name: torch.compiler.disable(op)
    for name, op in (('mmcv', mmcv.ops.modulated_deform_conv2d), ('torch', modulated_deform_conv2d))
}


def select_backend(name: str, device: torch.device) -> str:
    """Name of the implementation that computes on ``device``; ``'auto'`` takes the fastest.

    Raises:
        ValueError: If there is no implementation of that name.
    """
    if name == 'auto':
        return 'mmcv' if device.type == 'cuda' else 'torch'
    if name not in BACKENDS:
        raise ValueError(f"backend must be one of 'auto', {str([*BACKENDS])[1:-1]}, got {name!r}")
    return name


@MODELS.register_module('DCNv2')
class DCNv2(mmcv.ops.ModulatedDeformConv2dPack):
    """Deformable convolution whose offsets and masks come from a convolution of its own input.

    Parameters, state dict and function are those of mmcv's ``DCNv2``. Computes in float32 at least, also under
    autocast, and returns what a plain convolution would: autocast's dtype, or the input's.

    A fresh layer computes what BiRefNet's fresh layer does. There the mask is ``2 * sigmoid(m)``, here
    ``sigmoid(m)``, so the initial kernel is twice mmcv's.

    Args:
        *args, **kwargs: As for ``mmcv.ops.ModulatedDeformConv2dPack``: ``in_channels``, ``out_channels``,
            ``kernel_size``, ``stride``, ``padding``, ``dilation``, ``groups``, ``deform_groups``, ``bias``.
        backend: ``'torch'`` (gather and matrix product, low memory, fast on the CPU), ``'mmcv'`` (mmcv's kernel) or
            ``'auto'``: mmcv on CUDA, torch elsewhere. May be changed at any time through the attribute.
    """

    def __init__(self, *args, backend: str = 'auto', **kwargs) -> None:
        super().__init__(*args, **kwargs)
        select_backend(backend, self.weight.device)
        self.backend = backend

    def init_weights(self) -> None:
        super().init_weights()
        self.weight.data.mul_(2)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, in_channels, H, W)`` to ``(N, out_channels, H', W')``."""
        return self.deform(x, self.conv_offset(x))

    def deform(self, x: Tensor, offset_mask: Tensor) -> Tensor:
        """The convolution of ``x`` at given offsets.

        Args:
            x: Map ``(N, in_channels, H, W)``.
            offset_mask: ``(N, 3 * deform_groups * kh * kw, H', W')``: offsets, y before x for each tap, then the masks
                before their sigmoid.

        Returns:
            Map ``(N, out_channels, H', W')`` of the dtype of ``offset_mask``.
        """
        taps = offset_mask.shape[1] // 3
        dtype = torch.promote_types(offset_mask.dtype, torch.float32)
        op = BACKENDS[select_backend(self.backend, x.device)]
        # mmcv's kernel has no bfloat16, and positions need more digits than 16 bits hold.
        with torch.autocast(x.device.type, enabled=False):
            offset, mask = offset_mask.to(dtype).split((2 * taps, taps), dim=1)
            out = op(
                x.to(dtype),
                offset.contiguous(),
                mask.sigmoid().contiguous(),
                self.weight.to(dtype),
                None if self.bias is None else self.bias.to(dtype),
                self.stride,
                self.padding,
                self.dilation,
                self.groups,
                self.deform_groups,
            )
        return out.to(offset_mask.dtype)
