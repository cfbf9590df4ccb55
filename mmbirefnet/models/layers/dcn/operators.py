"""Deformable convolution in the dtype that suits its backend, also as one operator for ``torch.compile``.

The compiler can trace neither the kernels of mmcv nor those of this package, and would unroll the loop over chunks.
"""

from __future__ import annotations

from collections.abc import Callable

import mmcv.ops
import torch
from packaging.version import Version
from torch import Tensor

from mmbirefnet.models.layers.dcn.backends import (
    has_bfloat16_instructions,
    load_backend,
    load_gradients,
    select_backend,
)
from mmbirefnet.models.layers.dcn.geometry import Geometry

HAS_OPERATOR = Version(torch.__version__) >= Version('2.6')  # whose operators take optional tensors and dtypes


def _select(backend: str, device: torch.device, dtype: torch.dtype) -> tuple[str, torch.dtype]:
    """Name of the backend for a result of ``dtype``, and the dtype of the map and the kernel that it gets."""
    # The tracer of mmengine.analysis counts only the FLOPs of torch's operators.
    name = 'torch' if torch.jit.is_tracing() else select_backend(backend, device, dtype)
    # mmcv's kernel does not support bfloat16.
    half = name == 'triton' or name == 'torch' and dtype == torch.bfloat16 and has_bfloat16_instructions(device)
    return name, dtype if half else torch.promote_types(dtype, torch.float32)


def deform_conv(
    x: Tensor,
    offset: Tensor,
    mask: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: int | tuple[int, int],
    padding: int | tuple[int, int],
    dilation: int | tuple[int, int],
    groups: int,
    deform_groups: int,
    backend: str,
    dtype: torch.dtype,
    then: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Modulated deformable convolution, see ``torch_backend.modulated_deform_conv2d``.

    Args:
        x, weight, bias: Map, kernel and bias of any dtype.
        offset, mask: In float32 or float64, since positions need more than 16 bits.
        stride, padding, dilation, groups, deform_groups: Options of the convolution.
        backend: Name of a backend.
        dtype: Dtype of the result.
        then: See ``DCNv2.deform``.

    Returns:
        ``(N, O, H', W')`` of ``dtype``.
    """
    name, map_dtype = _select(backend, x.device, dtype)
    options = stride, padding, dilation, groups, deform_groups
    x, weight, bias = (None if t is None else t.to(map_dtype) for t in (x, weight, bias))
    if name != 'mmcv':
        return load_backend(name)(x, offset, mask, weight, bias, *options, then).to(dtype)
    # mmcv's kernel reads raw memory.
    x, offset, mask = x.contiguous(), offset.contiguous(), mask.contiguous()
    out = mmcv.ops.modulated_deform_conv2d(x, offset, mask, weight, bias, *options)
    return (out if then is None else then(out.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)).to(dtype)


if HAS_OPERATOR:
    # The memory formats of results are fixed, since the compiler plans with those of the fake ones.

    @torch.library.custom_op('mmbirefnet::deform_conv', mutates_args=())
    def deform_conv_operator(
        x: Tensor,
        offset: Tensor,
        mask: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: list[int],
        padding: list[int],
        dilation: list[int],
        groups: int,
        deform_groups: int,
        backend: str,
        dtype: torch.dtype,
    ) -> Tensor:
        """:func:`deform_conv` without ``then``, as an operator; channels-last."""
        options = stride, padding, dilation, groups, deform_groups
        with torch.autocast(x.device.type, enabled=False):
            out = deform_conv(x, offset, mask, weight, bias, *options, backend, dtype)
        return out.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)

    @deform_conv_operator.register_fake
    def _(x, offset, mask, weight, bias, stride, padding, dilation, groups, deform_groups, backend, dtype):
        return x.new_empty(len(x), *offset.shape[2:], len(weight), dtype=dtype).permute(0, 3, 1, 2)

    @torch.library.custom_op('mmbirefnet::deform_conv_gradients', mutates_args=())
    def gradients_operator(
        grad: Tensor,
        x: Tensor,
        offset: Tensor,
        mask: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: list[int],
        padding: list[int],
        dilation: list[int],
        groups: int,
        deform_groups: int,
        backend: str,
        needs: list[bool],
    ) -> list[Tensor]:
        """Gradients of the tensors of :func:`deform_conv_operator`; contiguous, empty where not needed."""
        with torch.autocast(x.device.type, enabled=False):
            name, map_dtype = _select(backend, x.device, grad.dtype)
            geometry = Geometry.of(x, offset, mask, weight, stride, padding, dilation, groups, deform_groups)
            maps = (t.to(map_dtype) for t in (grad, x))
            grads = load_gradients(name)(*maps, offset, mask, weight.to(map_dtype), geometry, tuple(needs))
        return [
            value.to(t.dtype, memory_format=torch.contiguous_format) if need else x.new_empty(0)
            for value, t, need in zip(grads, (x, offset, mask, weight, bias), needs)
        ]

    @gradients_operator.register_fake
    def _(grad, x, offset, mask, weight, bias, stride, padding, dilation, groups, deform_groups, backend, needs):
        tensors = x, offset, mask, weight, bias
        return [t.new_empty(t.shape) if need else x.new_empty(0) for t, need in zip(tensors, needs)]

    def _setup_context(ctx, inputs, output) -> None:
        ctx.save_for_backward(*inputs[:5])
        ctx.options = inputs[5:11]

    def _backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        needs = ctx.needs_input_grad[:5]
        grads = gradients_operator(grad, *ctx.saved_tensors, *ctx.options, list(needs))
        return *(value if need else None for value, need in zip(grads, needs)), *[None] * 7

    deform_conv_operator.register_autograd(_backward, setup_context=_setup_context)
