"""Modulated deformable convolution (DCNv2; Zhu et al., 2019, Eq. 1) on CUDA: Triton gathers, torch multiplies.

A Triton kernel gathers the columns of some output pixels: bilinear values times masks. One matrix product with the
kernel of the convolution follows. The backward pass multiplies the gradient by the transposed kernel. From these
gradients of columns, a second Triton kernel computes those of offsets, masks and map; it also gathers the columns again
for the gradient of the convolution's kernel. Output pixels are processed in chunks that span images, so that the full
im2col buffer is never allocated.

Positions and interpolation are float32 whatever the dtype of the maps. In the Triton kernels ``p`` counts output pixels
of all images, and ``c`` channels. Maps and columns ``(pixels, taps, channels)`` are channels-last, offsets and masks
channels-first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from mmbirefnet.models.layers.dcn.function import DeformConvFunction
from mmbirefnet.models.layers.dcn.geometry import Geometry
from mmbirefnet.models.layers.dcn.torch_backend import kernel_matrices, merge_groups, split_groups

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
# Columns of one chunk: with a quarter of this, a forward pass took 1.1 to 1.7 times as long; more is not faster.
COLUMN_BYTES = 256 * 2**20
BLOCK_P = 32


# Triton compiles a kernel again for each kind of integer (1, multiples of 16, others), except for these.
UNSPECIALIZED = [
    *('start', 'stop', 'height', 'width', 'pixels', 'out_width', 'taps', 'kernel_width'),
    *('stride_y', 'stride_x', 'padding_y', 'padding_x', 'dilation_y', 'dilation_x'),
]


# fmt: off
@triton.jit
def _positions(
    offset_ptr, mask_ptr, valid, n, pixel, channel, tap, height, width, pixels, out_width, taps, kernel_width,
    stride_y, stride_x, padding_y, padding_x, dilation_y, dilation_x, deform_groups,
):
    """Positions (y, x) and masks of one tap of the pixels ``p``; positions outside the map are moved to -2."""
    at = (n * 2 * taps * deform_groups + 2 * channel) * pixels + pixel
    y0 = pixel // out_width * stride_y - padding_y + tap // kernel_width * dilation_y
    x0 = pixel % out_width * stride_x - padding_x + tap % kernel_width * dilation_x
    y = y0 + tl.load(offset_ptr + at, mask=valid, other=0.0).to(tl.float32)
    x = x0 + tl.load(offset_ptr + at + pixels, mask=valid, other=0.0).to(tl.float32)
    m = tl.load(mask_ptr + (n * taps * deform_groups + channel) * pixels + pixel, mask=valid, other=0.0).to(tl.float32)
    inside = valid & (y > -1) & (x > -1) & (y < height) & (x < width)
    return tl.where(inside, y, -2.0), tl.where(inside, x, -2.0), m


@triton.jit
def _corner(n, iy, ix, c, c_valid, height, width, channels):
    """Addresses of the channels ``c`` of the pixels (iy, ix) of images ``n``, and which of them exist."""
    inside = (iy >= 0) & (iy < height) & (ix >= 0) & (ix < width)
    at = (n * height + iy) * width + ix
    return at[:, None] * channels + c[None, :], inside[:, None] & c_valid[None, :]


@triton.jit(do_not_specialize=UNSPECIALIZED)
def columns_kernel(
    x_ptr, offset_ptr, mask_ptr, columns_ptr,
    start, stop, height, width, pixels, out_width, taps, kernel_width,
    stride_y, stride_x, padding_y, padding_x, dilation_y, dilation_x, channels, deform_channels,
    BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):
    """Program (block of pixels, deformable group and tap): their columns."""
    deform_groups = channels // deform_channels
    channel = tl.program_id(1)
    tap = channel % taps
    first = channel // taps * deform_channels
    row = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    p = start + row
    valid = p < stop
    n, pixel = (p // pixels).to(tl.int64), p % pixels
    y, x, m = _positions(offset_ptr, mask_ptr, valid, n, pixel, channel, tap, height, width, pixels, out_width, taps,
                         kernel_width, stride_y, stride_x, padding_y, padding_x, dilation_y, dilation_x, deform_groups)
    iy, ix = tl.floor(y).to(tl.int32), tl.floor(x).to(tl.int32)
    fy, fx = y - iy, x - ix
    w00, w01 = (m * (1 - fy) * (1 - fx))[:, None], (m * (1 - fy) * fx)[:, None]
    w10, w11 = (m * fy * (1 - fx))[:, None], (m * fy * fx)[:, None]
    for block in range(0, deform_channels, BLOCK_C):
        c = block + tl.arange(0, BLOCK_C)
        c_valid = c < deform_channels
        c += first
        at, exists = _corner(n, iy, ix, c, c_valid, height, width, channels)
        value = w00 * tl.load(x_ptr + at, mask=exists, other=0.0).to(tl.float32)
        at, exists = _corner(n, iy, ix + 1, c, c_valid, height, width, channels)
        value += w01 * tl.load(x_ptr + at, mask=exists, other=0.0).to(tl.float32)
        at, exists = _corner(n, iy + 1, ix, c, c_valid, height, width, channels)
        value += w10 * tl.load(x_ptr + at, mask=exists, other=0.0).to(tl.float32)
        at, exists = _corner(n, iy + 1, ix + 1, c, c_valid, height, width, channels)
        value += w11 * tl.load(x_ptr + at, mask=exists, other=0.0).to(tl.float32)
        at = (row.to(tl.int64) * taps + tap)[:, None] * channels + c[None, :]
        tl.store(columns_ptr + at, value.to(columns_ptr.dtype.element_ty), mask=valid[:, None] & c_valid[None, :])


@triton.jit(do_not_specialize=UNSPECIALIZED)
def gradients_kernel(
    x_ptr, offset_ptr, mask_ptr, columns_ptr, grad_x_ptr, grad_offset_ptr, grad_mask_ptr,
    start, stop, height, width, pixels, out_width, taps, kernel_width,
    stride_y, stride_x, padding_y, padding_x, dilation_y, dilation_x, channels, deform_channels,
    NEED_X: tl.constexpr, NEED_TAPS: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):
    """Program (block of pixels, deformable group and tap): replaces gradients of columns by the columns.

    It adds to the gradient of the map, and stores those of offsets and masks.
    """
    deform_groups = channels // deform_channels
    channel = tl.program_id(1)
    tap = channel % taps
    first = channel // taps * deform_channels
    row = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    p = start + row
    valid = p < stop
    n, pixel = (p // pixels).to(tl.int64), p % pixels
    y, x, m = _positions(offset_ptr, mask_ptr, valid, n, pixel, channel, tap, height, width, pixels, out_width, taps,
                         kernel_width, stride_y, stride_x, padding_y, padding_x, dilation_y, dilation_x, deform_groups)
    iy, ix = tl.floor(y).to(tl.int32), tl.floor(x).to(tl.int32)
    fy, fx, m1 = (y - iy)[:, None], (x - ix)[:, None], m[:, None]
    by_y = tl.zeros((BLOCK_P,), tl.float32)
    by_x = tl.zeros((BLOCK_P,), tl.float32)
    by_mask = tl.zeros((BLOCK_P,), tl.float32)
    for block in range(0, deform_channels, BLOCK_C):
        c = block + tl.arange(0, BLOCK_C)
        c_valid = c < deform_channels
        c += first
        column = (row.to(tl.int64) * taps + tap)[:, None] * channels + c[None, :]
        column_valid = valid[:, None] & c_valid[None, :]
        grad = tl.load(columns_ptr + column, mask=column_valid, other=0.0).to(tl.float32)
        at00, exists00 = _corner(n, iy, ix, c, c_valid, height, width, channels)
        at01, exists01 = _corner(n, iy, ix + 1, c, c_valid, height, width, channels)
        at10, exists10 = _corner(n, iy + 1, ix, c, c_valid, height, width, channels)
        at11, exists11 = _corner(n, iy + 1, ix + 1, c, c_valid, height, width, channels)
        v00 = tl.load(x_ptr + at00, mask=exists00, other=0.0).to(tl.float32)
        v01 = tl.load(x_ptr + at01, mask=exists01, other=0.0).to(tl.float32)
        v10 = tl.load(x_ptr + at10, mask=exists10, other=0.0).to(tl.float32)
        v11 = tl.load(x_ptr + at11, mask=exists11, other=0.0).to(tl.float32)
        low, high = v00 + fx * (v01 - v00), v10 + fx * (v11 - v10)
        value = low + fy * (high - low)
        tl.store(columns_ptr + column, (m1 * value).to(columns_ptr.dtype.element_ty), mask=column_valid)
        if NEED_TAPS:
            by_y += tl.sum(grad * (high - low), axis=1)
            by_x += tl.sum(grad * ((v01 - v00) + fy * ((v11 - v10) - (v01 - v00))), axis=1)
            by_mask += tl.sum(grad * value, axis=1)
        if NEED_X:
            grad *= m1
            tl.atomic_add(grad_x_ptr + at00, grad * (1 - fy) * (1 - fx), mask=exists00 & column_valid, sem='relaxed')
            tl.atomic_add(grad_x_ptr + at01, grad * (1 - fy) * fx, mask=exists01 & column_valid, sem='relaxed')
            tl.atomic_add(grad_x_ptr + at10, grad * fy * (1 - fx), mask=exists10 & column_valid, sem='relaxed')
            tl.atomic_add(grad_x_ptr + at11, grad * fy * fx, mask=exists11 & column_valid, sem='relaxed')
    if NEED_TAPS:
        at = (n * 2 * taps * deform_groups + 2 * channel) * pixels + pixel
        tl.store(grad_offset_ptr + at, m * by_y, mask=valid)
        tl.store(grad_offset_ptr + at + pixels, m * by_x, mask=valid)
        tl.store(grad_mask_ptr + (n * taps * deform_groups + channel) * pixels + pixel, by_mask, mask=valid)
# fmt: on


def launch_arguments(channels: int, geometry: Geometry) -> dict:
    """Arguments that both kernels share, and their tile sizes."""
    deform_channels = channels // geometry.deform_groups
    names = ('stride', 'padding', 'dilation')
    return dict(
        zip(('height', 'width'), geometry.in_size, strict=True),
        pixels=geometry.pixels,
        out_width=geometry.out_size[1],
        taps=geometry.taps,
        kernel_width=geometry.kernel_size[1],
        **{f'{name}_{axis}': getattr(geometry, name)[i] for name in names for i, axis in enumerate('yx')},
        channels=channels,
        deform_channels=deform_channels,
        BLOCK_P=BLOCK_P,
        BLOCK_C=min(triton.next_power_of_2(deform_channels), 64),
    )


def _chunks(x: Tensor, geometry: Geometry) -> Iterator[slice]:
    """Cut the output pixels of all images into ranges whose columns fit ``COLUMN_BYTES``."""
    total = len(x) * geometry.pixels
    step = max(BLOCK_P, COLUMN_BYTES // (geometry.taps * x.shape[1] * x.element_size()))
    for start in range(0, total, step):
        yield slice(start, min(start + step, total))


def _launch(kernel, chunk: slice, geometry: Geometry, *tensors: Tensor, **arguments) -> None:
    """Run a Triton kernel for the pixels of a chunk and all taps."""
    grid = (triton.cdiv(chunk.stop - chunk.start, BLOCK_P), geometry.deform_groups * geometry.taps)
    with torch.cuda.device_of(tensors[0]):
        kernel[grid](*tensors, start=chunk.start, stop=chunk.stop, **arguments)


def _convolve(
    x: Tensor,
    offset: Tensor,
    mask: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    geometry: Geometry,
    then: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """The convolution without gradients; ``then`` is applied to the values ``(pixels, O)`` of a chunk."""
    arguments = launch_arguments(x.shape[1], geometry)
    kernels, total = kernel_matrices(weight, geometry), len(x) * geometry.pixels
    out = x.new_empty(total, len(weight)) if then is None else None
    for pixels in _chunks(x, geometry):
        columns = x.new_empty(pixels.stop - pixels.start, geometry.taps, x.shape[1])
        _launch(columns_kernel, pixels, geometry, x, offset, mask, columns, **arguments)
        columns = split_groups(columns.view(-1, x.shape[1] // geometry.deform_groups), geometry)
        values = x.new_empty(len(columns[0]), len(weight)) if then is not None else out[pixels]
        for i, part in enumerate(values.chunk(geometry.groups, dim=1)):
            if bias is None:
                torch.mm(columns[i], kernels[i], out=part)
            else:
                torch.addmm(bias.chunk(geometry.groups)[i], columns[i], kernels[i], out=part)
        if then is not None:
            values = then(values)
            out = values.new_empty(total, values.shape[1]) if out is None else out
            out[pixels] = values
    return out.view(len(x), *geometry.out_size, -1).permute(0, 3, 1, 2)


def gradients(
    grad: Tensor,
    x: Tensor,
    offset: Tensor,
    mask: Tensor,
    weight: Tensor,
    geometry: Geometry,
    needs: tuple[bool, ...],
) -> tuple[Tensor | None, ...]:
    """Same as ``torch_backend.gradients``."""
    need_x, need_offset, need_mask, need_weight, need_bias = needs
    need_taps = need_offset or need_mask
    x, offset, mask = _kernel_layout(x, offset, mask)
    arguments = launch_arguments(x.shape[1], geometry)
    kernels = kernel_matrices(weight, geometry)
    grad_x = torch.zeros_like(x, dtype=torch.float32) if need_x else None
    grad_offset, grad_mask = (torch.empty_like(t) if need_taps else None for t in (offset, mask))
    grad_kernels = [torch.zeros_like(kernel, dtype=torch.float32) for kernel in kernels]
    rows = grad.permute(0, 2, 3, 1).flatten(0, 2)  # (pixels of all images, O)
    for pixels in _chunks(x, geometry):
        grads = rows[pixels].chunk(geometry.groups, dim=1)
        columns = merge_groups([g @ kernel.t() for g, kernel in zip(grads, kernels, strict=True)], geometry)
        outputs = (columns if g is None else g for g in (grad_x, grad_offset, grad_mask))
        flags = dict(NEED_X=need_x, NEED_TAPS=need_taps)
        _launch(gradients_kernel, pixels, geometry, x, offset, mask, columns, *outputs, **flags, **arguments)
        if need_weight:
            for total, g, column in zip(grad_kernels, grads, split_groups(columns, geometry), strict=True):
                total += column.t() @ g
    grad_weight = None
    if need_weight:
        grad_weight = torch.cat(grad_kernels, 1).view(*geometry.kernel_size, -1, len(weight)).permute(3, 2, 0, 1)
        grad_weight = grad_weight.to(weight.dtype)
    grad_bias = rows.sum(0, dtype=torch.float32).to(grad.dtype) if need_bias else None
    if need_x:
        grad_x = grad_x.to(x.dtype)
    return grad_x, grad_offset, grad_mask, grad_weight, grad_bias


def _kernel_layout(x: Tensor, offset: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The memory formats that the kernels read."""
    return x.contiguous(memory_format=torch.channels_last), offset.contiguous(), mask.contiguous()


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
    then: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Same as ``torch_backend.modulated_deform_conv2d``, on CUDA, for float32, float16 and bfloat16.

    ``x``, ``weight`` and ``bias`` share one of these dtypes; ``offset`` and ``mask`` are best kept in float32. Products
    use TF32 if ``torch.set_float32_matmul_precision`` allows it. The gradient of ``x`` is summed in no fixed order.

    Returns:
        ``(N, O, H', W')``, or ``O'`` channels, channels-last, of the dtype of ``x`` or of the result of ``then``.

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
    if not x.is_cuda and isinstance(columns_kernel, triton.JITFunction):
        raise RuntimeError(
            f"backend 'triton' needs CUDA tensors, got {x.device.type}. Fix: use backend 'torch' or 'auto'"
        )
    geometry = Geometry.of(x, offset, mask, weight, stride, padding, dilation, groups, deform_groups)
    x, offset, mask = _kernel_layout(x, offset, mask)
    if then is not None:
        with torch.no_grad():
            return _convolve(x, offset, mask, weight, bias, geometry, then)
    return DeformConvFunction.apply(x, offset, mask, weight, bias, geometry, _convolve, gradients)
