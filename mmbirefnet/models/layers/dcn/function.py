"""Autograd function of the deformable convolutions that this package computes itself."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from mmbirefnet.models.layers.dcn.geometry import Geometry


class DeformConvFunction(Function):
    """A modulated deformable convolution that saves its inputs, not its columns, for the backward pass."""

    @staticmethod
    def forward(
        ctx,
        x: Tensor,
        offset: Tensor,
        mask: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        geometry: Geometry,
        convolve: Callable[..., Tensor],
        gradients: Callable[..., tuple[Tensor | None, ...]],
    ) -> Tensor:
        ctx.save_for_backward(x, offset, mask, weight)
        ctx.geometry, ctx.gradients = geometry, gradients
        return convolve(x, offset, mask, weight, bias, geometry)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        return *ctx.gradients(grad, *ctx.saved_tensors, ctx.geometry, ctx.needs_input_grad[:5]), None, None, None
