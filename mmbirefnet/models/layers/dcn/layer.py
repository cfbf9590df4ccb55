"""DCNv2 layer (Zhu et al., 2019) with a choice of backends, and a builder of convolutions by name."""

from __future__ import annotations

import functools
from collections.abc import Callable

import mmcv.ops
import torch
from mmcv.cnn import build_conv_layer
from mmengine.logging import print_log
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from mmbirefnet.fileio.checkpoints import DCN_VERSION
from mmbirefnet.models.layers.compiling import is_compiling, uncompiled
from mmbirefnet.models.layers.dcn.backends import load_backend, select_backend
from mmbirefnet.models.layers.dcn.operators import HAS_OPERATOR, deform_conv
from mmbirefnet.registry import MODELS


class _ScaledSigmoid(Function):
    """``scale * sigmoid(x)`` that saves only its result for the backward pass, as the convolution does anyway."""

    @staticmethod
    def forward(ctx, x: Tensor, scale: float) -> Tensor:
        out = x.sigmoid().mul_(scale)
        ctx.save_for_backward(out)
        ctx.scale = scale
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        (out,) = ctx.saved_tensors
        return grad * out * (1 - out / ctx.scale), None


@functools.cache
def _log_rescaling(mask_scale: float) -> None:
    """Log once per process, not once per layer."""
    print_log(
        f'the checkpoint holds kernels of deformable convolutions for masks of sigmoid(m); divided by {mask_scale:g} '
        f'for masks of {mask_scale:g} * sigmoid(m)',
        'current',
    )


@MODELS.register_module('DCNv2')
class DCNv2(mmcv.ops.ModulatedDeformConv2dPack):
    """Deformable convolution (DCNv2; Zhu et al., 2019) whose offsets and masks are computed from its input.

    The mask is ``mask_scale * sigmoid(modulator)``. With the default of 2, the mask of a new layer is 1, so the layer
    starts as a plain convolution, and its kernel equals that of the reference implementation. With 1, the layer is
    mmcv's ``DCNv2`` with the same parameters. Under autocast and for 16-bit maps, it computes positions in float32, and
    returns the dtype of a plain convolution. Its products are in float32, except with Triton, and with the torch
    backend in bfloat16 on a CPU that has instructions for them.

    The version in the metadata of the state dict is 3. Kernels of an older version (of mmcv's layer, or of this layer
    before it had ``mask_scale``) have a scale of 1, and are divided by ``mask_scale`` when they are loaded. Kernels
    without a version are loaded unchanged.

    Args:
        args, kwargs: As for ``mmcv.ops.ModulatedDeformConv2dPack``: ``in_channels``, ``out_channels``,
            ``kernel_size``, ``stride``, ``padding``, ``dilation``, ``groups``, ``deform_groups``, ``bias``.
        mask_scale: Upper bound of the mask.
        backend: ``'torch'`` (gather and matrix product, low memory, fast on the CPU), ``'triton'`` (the same on CUDA,
            also in 16 bits), ``'mmcv'`` (mmcv's kernel) or ``'auto'``, see :func:`select_backend`. You can change the
            attribute at any time.

    Raises:
        ValueError: If ``backend`` is unknown.
        ImportError: If the backend is not installed.
    """

    _version = DCN_VERSION

    def __init__(self, *args, mask_scale: float = 2.0, backend: str = 'auto', **kwargs) -> None:
        super().__init__(*args, **kwargs)
        load_backend(select_backend(backend, self.weight.device))
        self.mask_scale = mask_scale
        self.backend = backend

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, *args) -> None:
        key = f'{prefix}weight'
        if local_metadata.get('version', self._version) < self._version and key in state_dict and self.mask_scale != 1:
            _log_rescaling(self.mask_scale)
            state_dict[key] = state_dict[key] / self.mask_scale
        # mmcv logs an upgrade for each layer that has a version.
        local_metadata = {name: value for name, value in local_metadata.items() if name != 'version'}
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)

    def forward(self, x: Tensor) -> Tensor:
        """Convert ``(N, in_channels, H, W)`` to ``(N, out_channels, H', W')``."""
        return self.deform(x, self.conv_offset(x))

    def deform(self, x: Tensor, offset_mask: Tensor, then: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Convolve ``x`` with the given offsets and masks.

        Args:
            x: Map ``(N, in_channels, H, W)``.
            offset_mask: ``(N, 3 * deform_groups * kh * kw, H', W')``: offsets, y before x for each tap, then the masks
                before their sigmoid.
            then: For inference, a function of the pixels of the result, ``(..., out_channels)`` to ``(..., C)``. It is
                applied to a few pixels at a time, so that all ``out_channels`` of all pixels are never allocated,
                except with the backend ``'mmcv'`` and in compiled models.

        Returns:
            Map ``(N, out_channels, H', W')`` of the dtype of ``offset_mask``.
        """
        # There is no operator for mmcv's kernel, whose gradients need autograd.
        if is_compiling() and HAS_OPERATOR and self.backend != 'mmcv':
            return self._deform_compiled(x, offset_mask, then)
        return self._deform(x, offset_mask, then)

    @uncompiled
    def _deform(self, x: Tensor, offset_mask: Tensor, then: Callable[[Tensor], Tensor] | None) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            offset, mask = self._split(offset_mask)
            tensors = x, offset, _ScaledSigmoid.apply(mask, self.mask_scale), self.weight, self.bias
            return deform_conv(*tensors, *self._options(), backend=self.backend, dtype=offset_mask.dtype, then=then)

    def _deform_compiled(self, x: Tensor, offset_mask: Tensor, then: Callable[[Tensor], Tensor] | None) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            offset, mask = self._split(offset_mask)
            tensors = x, offset, self.mask_scale * mask.sigmoid(), self.weight, self.bias
            out = torch.ops.mmbirefnet.deform_conv(*tensors, *self._options(), self.backend, offset_mask.dtype)
            return out if then is None else then(out.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    @staticmethod
    def _split(offset_mask: Tensor) -> tuple[Tensor, ...]:
        """Offsets, and masks before their sigmoid, in at least float32."""
        taps = offset_mask.shape[1] // 3
        return offset_mask.to(torch.promote_types(offset_mask.dtype, torch.float32)).split((2 * taps, taps), dim=1)

    def _options(self) -> tuple:
        return self.stride, self.padding, self.dilation, self.groups, self.deform_groups


def build_conv(conv_cfg: dict | None, *args, **kwargs) -> nn.Module:
    """Build a convolution; its type is looked up in the registry of mmbirefnet, then in that of mmcv.

    Args:
        conv_cfg: ``dict(type=name, **options)``, for example ``dict(type='DCNv2', backend='torch')``; ``None`` is a
            plain ``Conv2d``. A class instead of a name works too.
        args, kwargs: Arguments of ``torch.nn.Conv2d``.

    Raises:
        KeyError: If neither registry has the type.
    """
    if conv_cfg is not None and isinstance(conv_cfg.get('type'), str):
        layer = MODELS.get(conv_cfg['type'])
        if layer is None:
            raise KeyError(f'no convolution layer {conv_cfg["type"]!r} in the registries of mmbirefnet and mmcv')
        conv_cfg = {**conv_cfg, 'type': layer}
    return build_conv_layer(conv_cfg, *args, **kwargs)
