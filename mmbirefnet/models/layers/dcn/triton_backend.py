"""Modulated deformable convolution (DCNv2; Zhu et al., 2019, Eq. 1) in fused Triton kernels.

Experimental: no speed or memory has been measured on a GPU yet, and ``'auto'`` never selects it.

Each program gathers the columns of a block of output pixels, tap by tap, and multiplies them immediately, so that no
im2col buffer is allocated; the backward kernels gather them again. Products accumulate in float32, and positions and
interpolation are float32 whatever the dtype of the maps.

In the kernels ``p`` counts output pixels, ``c`` input channels, ``o`` output channels of a group. Maps are
channels-last, offsets and masks channels-first, weights (taps, channels of a group, all outputs). A *segment* is a run
of channels inside one convolution group and one deformable group.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from mmbirefnet.models.layers.dcn.geometry import Geometry

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
BLOCK_P = 64


@triton.jit
def _taps(offset_ptr, mask_ptr, channel, pixels, p, p_valid, y0, x0, height, width):
    """Positions (y, x) and mask of one tap of the pixels ``p``; positions outside the map are moved to -2."""
    at = channel * pixels + p
    y = y0 + tl.load(offset_ptr + at + channel * pixels, mask=p_valid, other=0.0).to(tl.float32)
    x = x0 + tl.load(offset_ptr + at + (channel + 1) * pixels, mask=p_valid, other=0.0).to(tl.float32)
    m = tl.load(mask_ptr + at, mask=p_valid, other=0.0).to(tl.float32)
    inside = (y > -1) & (x > -1) & (y < height) & (x < width)
    return tl.where(inside, y, -2.0), tl.where(inside, x, -2.0), m


@triton.jit
def _corner(iy, ix, c, c_valid, height, width, channels):
    """Addresses of the channels ``c`` of pixels (iy, ix), and which of them exist."""
    inside = (iy >= 0) & (iy < height) & (ix >= 0) & (ix < width)
    return (iy * width + ix)[:, None] * channels + c[None, :], inside[:, None] & c_valid[None, :]


@triton.jit
def _bilinear(x_ptr, y, x, c, c_valid, height, width, channels):
    """Values (p, c) at the positions, and their derivatives by y and x."""
    iy, ix = tl.floor(y).to(tl.int32), tl.floor(x).to(tl.int32)
    fy, fx = (y - iy)[:, None], (x - ix)[:, None]
    at, valid = _corner(iy, ix, c, c_valid, height, width, channels)
    v00 = tl.load(x_ptr + at, mask=valid, other=0.0).to(tl.float32)
    at, valid = _corner(iy, ix + 1, c, c_valid, height, width, channels)
    v01 = tl.load(x_ptr + at, mask=valid, other=0.0).to(tl.float32)
    at, valid = _corner(iy + 1, ix, c, c_valid, height, width, channels)
    v10 = tl.load(x_ptr + at, mask=valid, other=0.0).to(tl.float32)
    at, valid = _corner(iy + 1, ix + 1, c, c_valid, height, width, channels)
    v11 = tl.load(x_ptr + at, mask=valid, other=0.0).to(tl.float32)
    low, high = v00 + fx * (v01 - v00), v10 + fx * (v11 - v10)
    return low + fy * (high - low), high - low, (v01 - v00) + fy * ((v11 - v10) - (v01 - v00))


@triton.jit
def _scatter(grad_x_ptr, grad, y, x, c, c_valid, height, width, channels):
    """Add the gradient (p, c) of the values at the positions to that of the map."""
    iy, ix = tl.floor(y).to(tl.int32), tl.floor(x).to(tl.int32)
    fy, fx = (y - iy)[:, None], (x - ix)[:, None]
    at, valid = _corner(iy, ix, c, c_valid, height, width, channels)
    tl.atomic_add(grad_x_ptr + at, grad * (1 - fy) * (1 - fx), mask=valid, sem='relaxed')
    at, valid = _corner(iy, ix + 1, c, c_valid, height, width, channels)
    tl.atomic_add(grad_x_ptr + at, grad * (1 - fy) * fx, mask=valid, sem='relaxed')
    at, valid = _corner(iy + 1, ix, c, c_valid, height, width, channels)
    tl.atomic_add(grad_x_ptr + at, grad * fy * (1 - fx), mask=valid, sem='relaxed')
    at, valid = _corner(iy + 1, ix + 1, c, c_valid, height, width, channels)
    tl.atomic_add(grad_x_ptr + at, grad * fy * fx, mask=valid, sem='relaxed')


# fmt: off
@triton.jit
def forward_kernel(
    x_ptr, offset_ptr, mask_ptr, weight_ptr, bias_ptr, out_ptr,
    height, width, pixels, out_width, taps, kernel_width,
    stride_y, stride_x, padding_y, padding_x, dilation_y, dilation_x,
    channels, group_channels, deform_channels, segment, outputs, group_outputs,
    PRECISION: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_O: tl.constexpr,
    HAS_BIAS: tl.constexpr,
):
    """Program (pixel block, group and output block, image): one tile of the result."""
    n = tl.program_id(2).to(tl.int64)
    x_ptr += n * height * width * channels
    offset_ptr += n * 2 * taps * pixels * (channels // deform_channels)
    mask_ptr += n * taps * pixels * (channels // deform_channels)
    out_ptr += n * pixels * outputs
    blocks = tl.cdiv(group_outputs, BLOCK_O)
    group = tl.program_id(1) // blocks
    o = tl.program_id(1) % blocks * BLOCK_O + tl.arange(0, BLOCK_O)
    o_valid = o < group_outputs
    o += group * group_outputs
    p = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    p_valid = p < pixels
    y0 = p // out_width * stride_y - padding_y
    x0 = p % out_width * stride_x - padding_x
    total = tl.zeros((BLOCK_P, BLOCK_O), tl.float32)
    for tap in range(taps):
        y1 = y0 + tap // kernel_width * dilation_y
        x1 = x0 + tap % kernel_width * dilation_x
        for first in range(group * group_channels, (group + 1) * group_channels, segment):
            channel = first // deform_channels * taps + tap
            y, x, m = _taps(offset_ptr, mask_ptr, channel, pixels, p, p_valid, y1, x1, height, width)
            for start in range(0, segment, BLOCK_C):
                c = start + tl.arange(0, BLOCK_C)
                c_valid = c < segment
                c += first
                values, _, _ = _bilinear(x_ptr, y, x, c, c_valid, height, width, channels)
                row = (tap - group) * group_channels + c
                weight = tl.load(weight_ptr + row[:, None] * outputs + o[None, :],
                                 mask=c_valid[:, None] & o_valid[None, :], other=0.0)
                columns = (m[:, None] * values).to(weight.dtype)
                total = tl.dot(columns, weight, total, input_precision=PRECISION)
    if HAS_BIAS:
        total += tl.load(bias_ptr + o, mask=o_valid, other=0.0).to(tl.float32)[None, :]
    tl.store(out_ptr + p[:, None] * outputs + o[None, :], total.to(out_ptr.dtype.element_ty),
             mask=p_valid[:, None] & o_valid[None, :])


@triton.jit
def backward_taps_kernel(
    x_ptr, offset_ptr, mask_ptr, weight_ptr, grad_ptr, grad_x_ptr, grad_offset_ptr, grad_mask_ptr,
    height, width, pixels, out_width, taps, kernel_width,
    stride_y, stride_x, padding_y, padding_x, dilation_y, dilation_x,
    channels, group_channels, deform_channels, segment, outputs, group_outputs,
    PRECISION: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_O: tl.constexpr,
    NEED_X: tl.constexpr, NEED_TAPS: tl.constexpr,
):
    """Program (pixel block, deformable group and tap, image): gradients of offsets and masks, and their part of x's."""
    n = tl.program_id(2).to(tl.int64)
    deform_groups = channels // deform_channels
    x_ptr += n * height * width * channels
    grad_x_ptr += n * height * width * channels
    offset_ptr += n * 2 * taps * pixels * deform_groups
    grad_offset_ptr += n * 2 * taps * pixels * deform_groups
    mask_ptr += n * taps * pixels * deform_groups
    grad_mask_ptr += n * taps * pixels * deform_groups
    grad_ptr += n * pixels * outputs
    channel = tl.program_id(1)
    tap = channel % taps
    p = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    p_valid = p < pixels
    y0 = p // out_width * stride_y - padding_y + tap // kernel_width * dilation_y
    x0 = p % out_width * stride_x - padding_x + tap % kernel_width * dilation_x
    y, x, m = _taps(offset_ptr, mask_ptr, channel, pixels, p, p_valid, y0, x0, height, width)
    by_y = tl.zeros((BLOCK_P,), tl.float32)
    by_x = tl.zeros((BLOCK_P,), tl.float32)
    by_mask = tl.zeros((BLOCK_P,), tl.float32)
    first_channel = channel // taps * deform_channels
    for first in range(first_channel, first_channel + deform_channels, segment):
        group = first // group_channels
        for start in range(0, segment, BLOCK_C):
            c = start + tl.arange(0, BLOCK_C)
            c_valid = c < segment
            c += first
            row = (tap - group) * group_channels + c
            columns = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
            for o_start in range(0, group_outputs, BLOCK_O):
                o = o_start + tl.arange(0, BLOCK_O)
                o_valid = o < group_outputs
                o += group * group_outputs
                grad = tl.load(grad_ptr + p[:, None] * outputs + o[None, :],
                               mask=p_valid[:, None] & o_valid[None, :], other=0.0)
                weight = tl.load(weight_ptr + row[None, :] * outputs + o[:, None],
                                 mask=c_valid[None, :] & o_valid[:, None], other=0.0)
                columns = tl.dot(grad, weight, columns, input_precision=PRECISION)
            if NEED_TAPS:
                values, slope_y, slope_x = _bilinear(x_ptr, y, x, c, c_valid, height, width, channels)
                by_y += tl.sum(columns * slope_y, axis=1)
                by_x += tl.sum(columns * slope_x, axis=1)
                by_mask += tl.sum(columns * values, axis=1)
            if NEED_X:
                _scatter(grad_x_ptr, m[:, None] * columns, y, x, c, c_valid, height, width, channels)
    if NEED_TAPS:
        at = channel * pixels + p
        tl.store(grad_offset_ptr + at + channel * pixels, m * by_y, mask=p_valid)
        tl.store(grad_offset_ptr + at + (channel + 1) * pixels, m * by_x, mask=p_valid)
        tl.store(grad_mask_ptr + at, by_mask, mask=p_valid)


@triton.jit
def backward_weight_kernel(
    x_ptr, offset_ptr, mask_ptr, grad_ptr, grad_weight_ptr,
    height, width, pixels, out_width, taps, kernel_width,
    stride_y, stride_x, padding_y, padding_x, dilation_y, dilation_x,
    channels, group_channels, deform_channels, segment, outputs, group_outputs,
    PRECISION: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_O: tl.constexpr,
    splits,
):
    """Program (tap and channel block, output block, image and every ``splits``-th pixel block): part of one tile."""
    n = (tl.program_id(2) // splits).to(tl.int64)
    x_ptr += n * height * width * channels
    offset_ptr += n * 2 * taps * pixels * (channels // deform_channels)
    mask_ptr += n * taps * pixels * (channels // deform_channels)
    grad_ptr += n * pixels * outputs
    tap = tl.program_id(0) % taps
    block = tl.program_id(0) // taps
    blocks = tl.cdiv(segment, BLOCK_C)
    first = block // blocks * segment
    c = block % blocks * BLOCK_C + tl.arange(0, BLOCK_C)
    c_valid = c < segment
    c += first
    group = first // group_channels
    channel = first // deform_channels * taps + tap
    o = tl.program_id(1) * BLOCK_O + tl.arange(0, BLOCK_O)
    o_valid = o < group_outputs
    o += group * group_outputs
    total = tl.zeros((BLOCK_C, BLOCK_O), tl.float32)
    for start in range(tl.program_id(2) % splits * BLOCK_P, pixels, splits * BLOCK_P):
        p = start + tl.arange(0, BLOCK_P)
        p_valid = p < pixels
        y0 = p // out_width * stride_y - padding_y + tap // kernel_width * dilation_y
        x0 = p % out_width * stride_x - padding_x + tap % kernel_width * dilation_x
        y, x, m = _taps(offset_ptr, mask_ptr, channel, pixels, p, p_valid, y0, x0, height, width)
        values, _, _ = _bilinear(x_ptr, y, x, c, c_valid, height, width, channels)
        grad = tl.load(grad_ptr + p[:, None] * outputs + o[None, :],
                       mask=p_valid[:, None] & o_valid[None, :], other=0.0)
        columns = (m[:, None] * values).to(grad.dtype)
        total = tl.dot(tl.trans(columns), grad, total, input_precision=PRECISION)
    row = (tap - group) * group_channels + c
    tl.atomic_add(grad_weight_ptr + row[:, None] * outputs + o[None, :], total,
                  mask=c_valid[:, None] & o_valid[None, :], sem='relaxed')
# fmt: on


def launch_arguments(x: Tensor, weight: Tensor, geometry: Geometry) -> dict:
    """Arguments that the kernels share, and their tile sizes."""
    channels, outputs = x.shape[1], len(weight)
    group_channels, deform_channels = channels // geometry.groups, channels // geometry.deform_groups
    segment = math.gcd(group_channels, deform_channels)
    group_outputs = outputs // geometry.groups
    names = ('stride', 'padding', 'dilation')
    return dict(
        zip(('height', 'width'), geometry.in_size, strict=True),
        pixels=geometry.pixels,
        out_width=geometry.out_size[1],
        taps=geometry.taps,
        kernel_width=geometry.kernel_size[1],
        **{f'{name}_{axis}': getattr(geometry, name)[i] for name in names for i, axis in enumerate('yx')},
        channels=channels,
        group_channels=group_channels,
        deform_channels=deform_channels,
        segment=segment,
        outputs=outputs,
        group_outputs=group_outputs,
        # As in torch's matrix products, which mmcv's kernel uses.
        PRECISION='ieee' if torch.get_float32_matmul_precision() == 'highest' else 'tf32',
        BLOCK_P=BLOCK_P,
        BLOCK_C=min(max(triton.next_power_of_2(segment), 16), 64),
        # The tile of weights is the largest in shared memory.
        BLOCK_O=min(max(triton.next_power_of_2(group_outputs), 16), 128 if x.dtype == torch.float32 else 256),
        num_warps=8,
        num_stages=1 if x.dtype == torch.float32 else 2,
    )


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


class _ModulatedDeformConv2d(Function):
    @staticmethod
    def forward(ctx, x, offset, mask, weight, bias, geometry: Geometry):
        x, offset, mask = _channels_last(x), offset.contiguous(), mask.contiguous()
        ctx.save_for_backward(x, offset, mask, weight)
        ctx.geometry = geometry
        arguments = launch_arguments(x, weight, geometry)
        out = x.new_empty((len(x), *geometry.out_size, len(weight))).permute(0, 3, 1, 2)
        grid = (
            triton.cdiv(geometry.pixels, BLOCK_P),
            geometry.groups * triton.cdiv(arguments['group_outputs'], arguments['BLOCK_O']),
            len(x),
        )
        kernel = weight.permute(2, 3, 1, 0).contiguous()
        with torch.cuda.device_of(x):
            forward_kernel[grid](
                x, offset, mask, kernel, kernel if bias is None else bias, out, HAS_BIAS=bias is not None, **arguments
            )
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, offset, mask, weight = ctx.saved_tensors
        need_x, need_offset, need_mask, need_weight, need_bias, _ = ctx.needs_input_grad
        need_taps = need_offset or need_mask
        geometry = ctx.geometry
        arguments = launch_arguments(x, weight, geometry)
        grad = _channels_last(grad)
        grad_x = torch.zeros_like(x, dtype=torch.float32) if need_x else None
        grad_offset, grad_mask = (
            torch.empty_like(t, dtype=torch.float32) if need_taps else None for t in (offset, mask)
        )
        grad_weight = grad_bias = None
        with torch.cuda.device_of(x):
            if need_x or need_taps:
                kernel = weight.permute(2, 3, 1, 0).contiguous()
                grid = (triton.cdiv(geometry.pixels, BLOCK_P), geometry.deform_groups * geometry.taps, len(x))
                outputs = (kernel if g is None else g for g in (grad_x, grad_offset, grad_mask))
                backward_taps_kernel[grid](
                    x, offset, mask, kernel, grad, *outputs, NEED_X=need_x, NEED_TAPS=need_taps, **arguments
                )
            if need_weight:
                segment_blocks = triton.cdiv(arguments['segment'], arguments['BLOCK_C'])
                tiles = geometry.taps * (arguments['channels'] // arguments['segment']) * segment_blocks
                # Enough programs to fill a large GPU, each with as long a sum as that leaves.
                splits = min(triton.cdiv(512, tiles * len(x)), triton.cdiv(geometry.pixels, BLOCK_P))
                grid = (tiles, triton.cdiv(arguments['group_outputs'], arguments['BLOCK_O']), len(x) * splits)
                shape = (*geometry.kernel_size, weight.shape[1], len(weight))
                grad_weight = torch.zeros(shape, device=x.device)
                backward_weight_kernel[grid](x, offset, mask, grad, grad_weight, splits=splits, **arguments)
                grad_weight = grad_weight.permute(3, 2, 0, 1).to(weight.dtype)
        if need_bias:
            grad_bias = grad.sum((0, 2, 3), dtype=torch.float32).to(grad.dtype)
        if need_x:
            grad_x = grad_x.to(x.dtype)
        if need_taps:
            grad_offset, grad_mask = grad_offset.to(offset.dtype), grad_mask.to(mask.dtype)
        return grad_x, grad_offset, grad_mask, grad_weight, grad_bias, None


def modulated_deform_conv2d(
    x: Tensor,
    offset: Tensor,
    mask: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    dilation: int | tuple[int, int] = 1,
    groups: int = 1,
    deform_groups: int = 1,
) -> Tensor:
    """Same as ``torch_backend.modulated_deform_conv2d``, on CUDA, for float32, float16 and bfloat16.

    ``x``, ``weight`` and ``bias`` share one of these dtypes; ``offset`` and ``mask`` are best kept in float32. The
    gradient of ``x`` is summed in no fixed order.

    Returns:
        ``(N, O, H', W')``, channels-last, of the dtype of ``x``.

    Raises:
        ValueError: If the shapes do not fit together.
        TypeError: If the dtype is not supported.
        RuntimeError: If the tensors are not on CUDA (and Triton's interpreter is not in use).
    """
    if x.dtype not in DTYPES or weight.dtype != x.dtype:
        raise TypeError(
            f"backend 'triton' computes in float32, float16 or bfloat16, got {x.dtype} maps and {weight.dtype} "
            "weights; backend 'torch' takes float64"
        )
    if not x.is_cuda and isinstance(forward_kernel, triton.JITFunction):
        raise RuntimeError(f"backend 'triton' needs CUDA tensors, got {x.device.type}; use backend 'torch' or 'auto'")
    geometry = Geometry.of(x, offset, mask, weight, stride, padding, dilation, groups, deform_groups)
    return _ModulatedDeformConv2d.apply(x, offset, mask, weight, bias, geometry)
