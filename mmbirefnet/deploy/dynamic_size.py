"""Trace a model at one image size into a graph for any size.

With symbolic sizes, ``torch.export`` takes hours for the windows of Swin. Instead, each part that depends on the size
becomes one operator, whose ONNX form (:mod:`.onnx_operators`) reads the size at run time. The rest of the graph
(convolutions, linear layers, norms, elementwise operators) works for any size.
"""

from __future__ import annotations

from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmbirefnet.models import BiRefNet, SwinTransformer
from mmbirefnet.models.backbones.swin import PatchMerging, WindowAttention
from mmbirefnet.models.layers import InwardReference

from .deform_conv_export import OperatorDeformConv, replace_deform_convs

torch.library.define('mmbirefnet::resize', '(Tensor x, Tensor image, int stride) -> Tensor')
torch.library.define('mmbirefnet::image_to_patches', '(Tensor image, int grid) -> Tensor')
torch.library.define('mmbirefnet::merge_patches', '(Tensor x) -> Tensor')
torch.library.define(
    'mmbirefnet::window_attention',
    '(Tensor x, Tensor qkv_weight, Tensor qkv_bias, Tensor proj_weight, Tensor proj_bias, Tensor biases, '
    'int num_heads, int window_size, int shift) -> Tensor',
)


@torch.library.register_fake('mmbirefnet::resize')
def _(x, image, stride):
    return x.new_empty(*x.shape[:2], *(side // stride for side in image.shape[2:]))


@torch.library.register_fake('mmbirefnet::image_to_patches')
def _(image, grid):
    return image.new_empty(image.shape[0], image.shape[1] * grid**2, *(side // grid for side in image.shape[2:]))


@torch.library.register_fake('mmbirefnet::merge_patches')
def _(x):
    return x.new_empty(x.shape[0], (x.shape[1] + 1) // 2, (x.shape[2] + 1) // 2, 4 * x.shape[3])


@torch.library.register_fake('mmbirefnet::window_attention')
def _(x, *arguments):
    return torch.empty_like(x)


class _WindowAttention(nn.Module):
    """Replacement of :class:`~mmbirefnet.models.backbones.swin.WindowAttention`."""

    def __init__(self, attention: WindowAttention) -> None:
        super().__init__()
        self.qkv, self.proj = attention.qkv, attention.proj
        self.options = attention.num_heads, attention.window_size, attention.shift
        self.register_buffer('biases', attention.biases().detach())
        self.register_buffer('no_bias', self.qkv.weight.new_zeros(len(self.qkv.weight)))

    def forward(self, x: Tensor, norm: nn.Module) -> Tensor:
        qkv_bias = self.no_bias if self.qkv.bias is None else self.qkv.bias
        weights = self.qkv.weight, qkv_bias, self.proj.weight, self.proj.bias, self.biases
        return torch.ops.mmbirefnet.window_attention(norm(x), *weights, *self.options)


class _PatchMerging(nn.Module):
    """Replacement of :class:`~mmbirefnet.models.backbones.swin.PatchMerging`."""

    def __init__(self, merging: PatchMerging) -> None:
        super().__init__()
        self.norm, self.reduction = merging.norm, merging.reduction

    def forward(self, x: Tensor) -> Tensor:
        return self.reduction(self.norm(torch.ops.mmbirefnet.merge_patches(x)))


class _InwardReference(nn.Module):
    """Replacement of an :class:`~mmbirefnet.models.layers.InwardReference` whose patches have the size of the stage."""

    def __init__(self, inward: InwardReference) -> None:
        super().__init__()
        self.conv_in, self.conv_out, self.grid = inward.conv_in, inward.conv_out, inward.grid

    def forward(self, image: Tensor, size: tuple[int, int]) -> Tensor:
        patches = image if self.grid == 1 else torch.ops.mmbirefnet.image_to_patches(image, self.grid)
        return self.conv_out(self.conv_in(patches))


class _DeformConv(OperatorDeformConv):
    """The operator, and ``then`` without a reshape to one axis of pixels."""

    def deform(self, x, offset_mask, then=None):
        out = super().deform(x, offset_mask)
        return out if then is None else then(out.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


FORMS = {WindowAttention: _WindowAttention, PatchMerging: _PatchMerging, InwardReference: _InwardReference}


class DynamicLogits(nn.Module):
    """A fused BiRefNet as a function of normalized images, with operators for the parts that depend on the size.

    It can be traced at one size, but not executed.

    Args:
        model: The fused model, whose parts are replaced in place.

    Raises:
        ValueError: If its backbone is not the Swin transformer of mmbirefnet.
    """

    def __init__(self, model: BiRefNet) -> None:
        super().__init__()
        if not isinstance(model.backbone, SwinTransformer):
            raise ValueError(
                f'{type(model.backbone).__name__}: models with this backbone are exported at a fixed size only; '
                'with SwinTransformer any size is possible. Fix: leave --dynamic-size (dynamic_size=) out'
            )
        for module in list(model.modules()):
            for name, child in module.named_children():
                if type(child) in FORMS:
                    setattr(module, name, FORMS[type(child)](child))
        self.model = replace_deform_convs(model, _DeformConv)

    def forward(self, input_image: Tensor) -> Tensor:
        """Compute the logits ``(N, 1, H, W)`` of normalized images ``(N, 3, H, W)``."""

        def interpolate(x: Tensor, size: tuple[int, int], **_) -> Tensor:
            # The size of every map is that of the image divided by a stride.
            return torch.ops.mmbirefnet.resize(x, input_image, input_image.shape[2] // size[0])

        with mock.patch.object(F, 'interpolate', interpolate):
            return self.model(input_image, mode='tensor')
