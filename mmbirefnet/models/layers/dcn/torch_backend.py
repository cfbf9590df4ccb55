"""Modulated deformable convolution (DCNv2; Zhu et al., 2019, Eq. 1) as a gather and a matrix product.

The map is laid out as a table of channel vectors. Each output pixel and kernel tap is a weighted sum of
four rows of that table (bilinear interpolation times the mask), which ``embedding_bag`` computes whole
vectors at a time; one matrix product with the kernel follows. Output pixels are processed in chunks, and
the backward pass gathers the columns again, so that the full im2col buffer is never allocated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mmbirefnet.models.layers.dcn.function import DeformConvFunction
from mmbirefnet.models.layers.dcn.geometry import Geometry

# Columns, or values, of one chunk: small enough to stay near the cache, large enough for a fast matrix product.
COLUMN_BYTES = 16 * 2**20
# Pixels of zeros around the table; a tap outside the map reads two of them on that axis.
BORDER = 2


def _grid(geometry: Geometry, pixels: slice, like: Tensor) -> Tensor:
    """Undeformed positions (y, x) of the taps in the input, ``(pixels, taps, 1, 2)``."""

    def positions(index: Tensor, width: int, step: tuple[int, int], origin: tuple[int, int]) -> Tensor:
        y, x = index // width * step[0] - origin[0], index % width * step[1] - origin[1]
        return torch.stack((y, x), -1).to(like.dtype)

    pixel = torch.arange(pixels.start, pixels.stop, device=like.device)
    tap = torch.arange(geometry.taps, device=like.device)
    first = positions(pixel, geometry.out_size[1], geometry.stride, geometry.padding)
    return (first[:, None] + positions(tap, geometry.kernel_size[1], geometry.dilation, (0, 0))).unsqueeze(2)


def _by_pixel(values: Tensor, geometry: Geometry) -> Tensor:
    """``(deform_groups * taps * n, H, W)`` to ``(pixels, taps, deform_groups, n)``; a view if channels are dense."""
    values = values.permute(1, 2, 0).reshape(geometry.pixels, geometry.deform_groups, geometry.taps, -1)
    return values.transpose(1, 2)


class _Chunk(NamedTuple):
    """A range of output pixels of one image with the four table rows that each of its taps blends.

    The four are upper left, upper right, lower left and lower right.
    """

    pixels: slice
    mask: Tensor  # (pixels, taps, deform_groups)
    fraction: Tensor  # (pixels, taps, deform_groups, 2): position relative to the upper left, in [0, 1)
    rows: Tensor  # (pixels * taps * deform_groups, 4)

    def weights(self) -> Tensor:
        """Weights of ``rows``, of the same shape: bilinear times mask."""
        y, x = self.fraction.unbind(-1)
        lower, right = self.mask * y, self.mask * x
        lower_right = lower * x
        corners = (self.mask - lower - right + lower_right, right - lower_right, lower - lower_right, lower_right)
        return torch.stack(corners, -1).view(-1, 4)

    def gradients(self, grad_weights: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of offset ``(pixels, taps, deform_groups, 2)`` and mask ``(pixels, taps, deform_groups, 1)``."""
        y, x = self.fraction.unbind(-1)
        upper_left, upper_right, lower_left, lower_right = grad_weights.view(*self.mask.shape, 4).unbind(-1)
        upper, lower = upper_left.lerp(upper_right, x), lower_left.lerp(lower_right, x)
        along_x = (upper_right - upper_left).lerp(lower_right - lower_left, y)
        along = torch.stack((lower - upper, along_x), -1) * self.mask.unsqueeze(-1)
        return along, upper.lerp(lower, y).unsqueeze(-1)


def _chunks(offset: Tensor, mask: Tensor, weight: Tensor, geometry: Geometry) -> Iterator[_Chunk]:
    """Cut the output pixels of one image into chunks whose columns and values fit ``COLUMN_BYTES``.

    Args:
        offset: ``(deform_groups * taps * 2, H, W)``, in pixels, y before x.
        mask: ``(deform_groups * taps, H, W)``.
        weight: ``(O, C / groups, kh, kw)``.
        geometry: Geometry of the convolution.
    """
    groups, width = geometry.deform_groups, geometry.in_size[1] + 2 * BORDER
    offset, mask = _by_pixel(offset, geometry), _by_pixel(mask, geometry).squeeze(-1)
    end = offset.new_tensor(geometry.in_size)
    int32 = dict(device=mask.device, dtype=torch.int32)
    corners = torch.tensor([0, groups, width * groups, (width + 1) * groups], **int32)
    first = BORDER * (width + 1) * groups + torch.arange(groups, **int32)
    largest = max(weight[0].numel() * geometry.groups, len(weight))
    step = max(1, COLUMN_BYTES // (largest * weight.element_size()))
    for start in range(0, geometry.pixels, step):
        pixels = slice(start, min(start + step, geometry.pixels))
        position = _grid(geometry, pixels, mask) + offset[pixels]
        # As in mmcv's kernel, position -1 is outside. This decides the gradient at the kink, which zero offsets reach.
        position = position.where(position > -1, -BORDER).minimum(end)
        upper_left = position.floor()
        y, x = upper_left.int().unbind(-1)
        rows = ((y * width + x) * groups + first).unsqueeze(-1) + corners
        yield _Chunk(pixels, mask[pixels].contiguous(), position - upper_left, rows.reshape(-1, 4))


def _table(x: Tensor, deform_groups: int) -> Tensor:
    """``(C, H, W)`` with its border to rows of channel vectors, ``((H + 4) * (W + 4) * deform_groups, ·)``."""
    border = (0, 0, BORDER, BORDER, BORDER, BORDER)
    return F.pad(x.permute(1, 2, 0), border).view(-1, x.shape[0] // deform_groups)


def _blend(table: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
    """Weighted sums of four rows each, ``(len(rows), table.shape[1])``."""
    return F.embedding_bag(rows, table, per_sample_weights=weights, mode='sum')


def _gradient_of_weights(table: Tensor, rows: Tensor, grad_columns: Tensor) -> Tensor:
    """Gradient of :func:`_blend` with respect to its weights, of the shape of ``rows``."""
    bag = torch.arange(len(rows), device=rows.device, dtype=rows.dtype)
    # The operator that autograd calls, which does not compute the columns again.
    gradient = torch.ops.aten._embedding_bag_per_sample_weights_backward
    corners = rows.shape[1]
    sum_mode = 0
    arguments = rows.flatten(), bag * corners, bag.repeat_interleave(corners), sum_mode
    return gradient(grad_columns, table, *arguments).view_as(rows)


def _add_blend_transposed(grad_table: Tensor, rows: Tensor, weights: Tensor, grad_columns: Tensor) -> None:
    """Add to ``grad_table`` the gradient of :func:`_blend` with respect to its table.

    The scatter becomes a gather, too: the samples are sorted by the row that they read.
    """
    row, order = rows.flatten().sort(stable=True)
    first, last = row[0].item(), row[-1].item()
    bounds = torch.searchsorted(row, torch.arange(first, last + 2, device=row.device, dtype=row.dtype))
    grad_table[first : last + 1] += F.embedding_bag(
        order // rows.shape[1],
        grad_columns,
        bounds,
        per_sample_weights=weights.flatten()[order],
        mode='sum',
        include_last_offset=True,
    )


def split_groups(columns: Tensor, geometry: Geometry) -> list[Tensor]:
    """``(pixels * taps * deform_groups, ·)`` to one ``(pixels, taps * C / groups)`` matrix per group."""
    columns = columns.view(-1, geometry.taps, geometry.deform_groups * columns.shape[1])
    return [part.flatten(1) for part in columns.chunk(geometry.groups, dim=2)]


def merge_groups(parts: list[Tensor], geometry: Geometry) -> Tensor:
    """Inverse of :func:`split_groups`."""
    parts = [part.unflatten(1, (geometry.taps, -1)) for part in parts]
    columns = parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)
    return columns.view(-1, columns.shape[2] // geometry.deform_groups)


def kernel_matrices(weight: Tensor, geometry: Geometry) -> tuple[Tensor, ...]:
    """``(O, C / groups, kh, kw)`` to one ``(taps * C / groups, O / groups)`` matrix per group."""
    return weight.permute(2, 3, 1, 0).flatten(0, 2).chunk(geometry.groups, dim=1)


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
    out = None
    kernels = kernel_matrices(weight, geometry)
    for n in range(len(x)):
        table = _table(x[n], geometry.deform_groups)
        for chunk in _chunks(offset[n], mask[n], weight, geometry):
            columns = split_groups(_blend(table, chunk.rows, chunk.weights().to(x.dtype)), geometry)
            parts = [column @ kernel for column, kernel in zip(columns, kernels, strict=True)]
            values = parts[0] if len(parts) == 1 else torch.cat(parts, 1)
            if bias is not None:
                values += bias
            if then is not None:
                values = then(values)
            if out is None:
                out = values.new_empty(len(x), geometry.pixels, values.shape[1])
            out[n, chunk.pixels] = values
    return out.unflatten(1, geometry.out_size).permute(0, 3, 1, 2)


def gradients(
    grad: Tensor,
    x: Tensor,
    offset: Tensor,
    mask: Tensor,
    weight: Tensor,
    geometry: Geometry,
    needs: tuple[bool, ...],
) -> tuple[Tensor | None, ...]:
    """Gradients of x, offset, mask, weight and bias, each ``None`` unless needed, for that of the result."""
    need_x, need_offset, need_mask, need_weight, need_bias = needs
    need_taps = need_offset or need_mask
    kernels = kernel_matrices(weight, geometry)
    grad_x, grad_offset, grad_mask = (
        torch.empty_like(t, memory_format=torch.channels_last) if need else None
        for t, need in ((x, need_x), (offset, need_taps), (mask, need_taps))
    )
    grad_kernels = [torch.zeros_like(kernel, dtype=offset.dtype) for kernel in kernels]
    for n in range(len(x)):
        table = _table(x[n].to(offset.dtype), geometry.deform_groups)
        grad_table = torch.zeros_like(table)
        grad_rows = grad[n].permute(1, 2, 0).flatten(0, 1)
        for chunk in _chunks(offset[n], mask[n], weight, geometry):
            grads = grad_rows[chunk.pixels].chunk(geometry.groups, dim=1)
            grad_columns = merge_groups(
                [(g @ kernel.t()).to(offset.dtype) for g, kernel in zip(grads, kernels, strict=True)], geometry
            )
            weights = chunk.weights()
            if need_x:
                _add_blend_transposed(grad_table, chunk.rows, weights, grad_columns)
            if need_taps:
                by_offset, by_mask = chunk.gradients(_gradient_of_weights(table, chunk.rows, grad_columns))
                _by_pixel(grad_offset[n], geometry)[chunk.pixels] = by_offset
                _by_pixel(grad_mask[n], geometry)[chunk.pixels] = by_mask
            if need_weight:
                columns = split_groups(_blend(table, chunk.rows, weights), geometry)
                for total, g, column in zip(grad_kernels, grads, columns, strict=True):
                    total += column.to(g.dtype).t() @ g
        if need_x:
            height, width = geometry.in_size
            grad_map = grad_table.view(height + 2 * BORDER, width + 2 * BORDER, -1)
            grad_x[n] = grad_map[BORDER:-BORDER, BORDER:-BORDER].permute(2, 0, 1)
    grad_weight = None
    if need_weight:
        grad_weight = torch.cat(grad_kernels, 1).view(*geometry.kernel_size, -1, len(weight)).permute(3, 2, 0, 1)
    return grad_x, grad_offset, grad_mask, grad_weight, grad.sum((0, 2, 3)) if need_bias else None


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
    """Modulated deformable convolution, equal to ``mmcv.ops.modulated_deform_conv2d`` up to rounding, in less memory.

    Args:
        x: Map ``(N, C, H, W)``; all tensors of one dtype, float32 or float64. With float32 ``offset`` and ``mask``, the
            others may be bfloat16: then only positions and sums are in float32, and products in bfloat16.
        offset: ``(N, deform_groups * kh * kw * 2, H', W')``, in pixels of ``x``, y before x for each tap.
        mask: ``(N, deform_groups * kh * kw, H', W')``.
        weight: ``(O, C / groups, kh, kw)``.
        bias: ``(O,)`` or ``None``.
        stride, padding, dilation, groups: As in ``torch.nn.functional.conv2d``.
        deform_groups: Number of channel groups with separate offsets.
        then: A function ``(pixels, O)`` to ``(pixels, O')`` of the result, which is applied to a few pixels at a time,
            so that the ``O`` channels of all pixels are never allocated. Without gradients.

    Returns:
        ``(N, O, H', W')``, or ``O'`` channels, channels-last in memory. Differentiable once in all tensors.

    Raises:
        ValueError: If the shapes do not fit together.
    """
    geometry = Geometry.of(x, offset, mask, weight, stride, padding, dilation, groups, deform_groups)
    # torch.jit's tracer fails for custom functions that read sizes, and does not count their operations.
    if then is None and not torch.jit.is_tracing():
        return DeformConvFunction.apply(x, offset, mask, weight, bias, geometry, _convolve, gradients)
    with torch.no_grad():
        return _convolve(x, offset, mask, weight, bias, geometry, then)
