"""Modulated deformable convolution (DCNv2; Zhu et al., 2019, Eq. 1) as a gather and a matrix product.

The map is laid out as a table of channel vectors. Each output pixel and kernel tap is a weighted sum of
four rows of that table (bilinear interpolation times the mask), which ``embedding_bag`` computes whole
vectors at a time; one matrix product with the kernel follows. Output pixels are processed in chunks, and
the backward pass gathers the columns anew, so that the im2col buffer never exists as a whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from .deform_conv_geometry import Geometry

# Column buffer of one chunk: small enough to stay near the cache, large enough for a fast matrix product.
COLUMN_BYTES = 16 * 2**20


def _grid(geometry: Geometry, pixels: slice, like: Tensor) -> tuple[Tensor, Tensor]:
    """Undeformed positions (y, x) of the taps in the input, each ``(taps, 1, pixels)``."""
    pixel = torch.arange(pixels.start, pixels.stop, device=like.device)
    tap = torch.arange(geometry.taps, device=like.device).view(-1, 1, 1)
    (width, kernel), (sy, sx) = (geometry.out_size[1], geometry.kernel_size[1]), geometry.stride
    y = pixel // width * sy - geometry.padding[0] + tap // kernel * geometry.dilation[0]
    x = pixel % width * sx - geometry.padding[1] + tap % kernel * geometry.dilation[1]
    return y.to(like.dtype), x.to(like.dtype)


def _by_tap(values: Tensor, geometry: Geometry) -> Tensor:
    """``(deform_groups * taps * n, H, W)`` to ``(taps, deform_groups, n, pixels)``; a view if contiguous."""
    return values.reshape(geometry.deform_groups, geometry.taps, -1, geometry.pixels).transpose(0, 1)


class _Axis(NamedTuple):
    """Linear interpolation along one axis between two neighbours; each ``(taps, deform_groups, 2, pixels)``."""

    index: Tensor  # 0 for a neighbour outside the map
    weight: Tensor  # 0 there
    slope: Tensor  # derivative of the weight with respect to the position

    @classmethod
    def at(cls, position: Tensor, size: int) -> _Axis:
        low = position.floor()
        index = torch.stack((low, low + 1), dim=2)
        # As in mmcv's kernel -1 itself is outside, which decides the gradient at that kink (met by zero offsets).
        inside = (index >= 0) & (index < size) & (position > -1).unsqueeze(2)
        fraction = position - low
        weight = torch.stack((1 - fraction, fraction), dim=2).where(inside, 0)
        slope = inside * position.new_tensor([[-1], [1]])
        return cls(index.where(inside, 0).int(), weight, slope)


class _Chunk(NamedTuple):
    """A range of output pixels of one image with the four table rows that each of its taps blends."""

    pixels: slice
    mask: Tensor  # (taps, deform_groups, 1, pixels)
    y: _Axis
    x: _Axis
    rows: Tensor  # (pixels * taps * deform_groups, 4)

    def weights(self) -> Tensor:
        """Weights of ``rows``, of the same shape: bilinear times mask."""
        return _per_row((self.y.weight * self.mask).unsqueeze(3) * self.x.weight.unsqueeze(2))

    def gradients(self, grad_weights: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of offset ``(taps, deform_groups, 2, pixels)`` and mask ``(taps, deform_groups, 1, pixels)``."""
        taps, groups, _, pixels = self.mask.shape
        grad = grad_weights.view(pixels, -1).t().reshape(taps, groups, 2, 2, pixels)
        at_x = (grad * self.x.weight.unsqueeze(2)).sum(3)
        at_y = (grad * self.y.weight.unsqueeze(3)).sum(2)
        along = torch.stack(((at_x * self.y.slope).sum(2), (at_y * self.x.slope).sum(2)), dim=2)
        return along * self.mask, (at_x * self.y.weight).sum(2, keepdim=True)


def _per_row(corners: Tensor) -> Tensor:
    """``(taps, deform_groups, 2, 2, pixels)`` to ``(pixels * taps * deform_groups, 4)``."""
    return corners.flatten(0, 3).t().reshape(-1, 4)


def _chunks(offset: Tensor, mask: Tensor, channels: int, geometry: Geometry) -> Iterator[_Chunk]:
    """Cut the output pixels of one image into chunks whose columns fit ``COLUMN_BYTES``.

    Args:
        offset: ``(deform_groups * taps * 2, H, W)``, in pixels, y before x.
        mask: ``(deform_groups * taps, H, W)``.
        channels: of the input map.
        geometry: of the convolution.
    """
    height, width = geometry.in_size
    offset, mask = _by_tap(offset, geometry), _by_tap(mask, geometry)
    group = torch.arange(geometry.deform_groups, device=mask.device, dtype=torch.int32).view(-1, 1, 1, 1)
    step = max(1, COLUMN_BYTES // (geometry.taps * channels * mask.element_size()))
    for start in range(0, geometry.pixels, step):
        pixels = slice(start, min(start + step, geometry.pixels))
        grid_y, grid_x = _grid(geometry, pixels, mask)
        y = _Axis.at(grid_y + offset[:, :, 0, pixels], height)
        x = _Axis.at(grid_x + offset[:, :, 1, pixels], width)
        rows = (y.index.unsqueeze(3) * width + x.index.unsqueeze(2)) * geometry.deform_groups + group
        yield _Chunk(pixels, mask[..., pixels], y, x, _per_row(rows))


def _table(x: Tensor, deform_groups: int) -> Tensor:
    """``(C, H, W)`` to rows of channel vectors ``(H * W * deform_groups, C / deform_groups)``."""
    return x.permute(1, 2, 0).contiguous().view(-1, x.shape[0] // deform_groups)


def _blend(table: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
    """Weighted sums of four rows each, ``(len(rows), table.shape[1])``."""
    return F.embedding_bag(rows, table, per_sample_weights=weights, mode='sum')


def _add_blend_transposed(grad_table: Tensor, rows: Tensor, weights: Tensor, grad_columns: Tensor) -> None:
    """Add to ``grad_table`` the gradient of :func:`_blend` with respect to its table.

    The scatter is turned into a gather too, by sorting the samples by the row they read.
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


def _split(columns: Tensor, geometry: Geometry) -> list[Tensor]:
    """``(pixels * taps * deform_groups, ·)`` to one ``(pixels, taps * C / groups)`` matrix per group."""
    columns = columns.view(-1, geometry.taps, geometry.deform_groups * columns.shape[1])
    return [part.flatten(1) for part in columns.chunk(geometry.groups, dim=2)]


def _merge(parts: list[Tensor], geometry: Geometry) -> Tensor:
    """Inverse of :func:`_split`."""
    parts = [part.unflatten(1, (geometry.taps, -1)) for part in parts]
    columns = parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)
    return columns.view(-1, columns.shape[2] // geometry.deform_groups)


class _ModulatedDeformConv2d(Function):
    @staticmethod
    def forward(ctx, x, offset, mask, weight, bias, geometry: Geometry):
        ctx.save_for_backward(x, offset, mask, weight)
        ctx.geometry = geometry
        kernels = weight.permute(0, 2, 3, 1).flatten(1).chunk(geometry.groups)
        channels_last = x.is_contiguous(memory_format=torch.channels_last)
        out = torch.empty(
            (len(x), len(weight), *geometry.out_size),
            dtype=x.dtype,
            device=x.device,
            memory_format=torch.channels_last if channels_last else torch.contiguous_format,
        )
        for n in range(len(x)):
            table = _table(x[n], geometry.deform_groups)
            for chunk in _chunks(offset[n], mask[n], x.shape[1], geometry):
                columns = _split(_blend(table, chunk.rows, chunk.weights()), geometry)
                targets = out[n].flatten(1)[:, chunk.pixels].chunk(geometry.groups)
                for target, kernel, column in zip(targets, kernels, columns, strict=True):
                    torch.mm(kernel, column.t(), out=target)
        return out if bias is None else out.add_(bias.view(-1, 1, 1))

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, offset, mask, weight = ctx.saved_tensors
        geometry = ctx.geometry
        need_x, need_offset, need_mask, need_weight, need_bias, _ = ctx.needs_input_grad
        need_taps = need_offset or need_mask
        kernels = weight.permute(0, 2, 3, 1).flatten(1).chunk(geometry.groups)
        grad_x = torch.empty_like(x) if need_x else None
        grad_offset, grad_mask = (
            torch.empty_like(t, memory_format=torch.contiguous_format) if need_taps else None for t in (offset, mask)
        )
        grad_kernels = [torch.zeros_like(kernel) for kernel in kernels]
        for n in range(len(x)):
            table = _table(x[n], geometry.deform_groups)
            grad_table = torch.zeros_like(table)
            for chunk in _chunks(offset[n], mask[n], x.shape[1], geometry):
                grads = grad[n].flatten(1)[:, chunk.pixels].chunk(geometry.groups)
                grad_columns = _merge([g.t() @ kernel for g, kernel in zip(grads, kernels, strict=True)], geometry)
                weights = chunk.weights()
                if need_x:
                    _add_blend_transposed(grad_table, chunk.rows, weights, grad_columns)
                with torch.enable_grad():
                    columns = _blend(table, chunk.rows, weights.requires_grad_(need_taps))
                if need_taps:
                    (grad_weights,) = torch.autograd.grad(columns, weights, grad_columns)
                    by_offset, by_mask = chunk.gradients(grad_weights)
                    _by_tap(grad_offset[n], geometry)[..., chunk.pixels] = by_offset
                    _by_tap(grad_mask[n], geometry)[..., chunk.pixels] = by_mask
                if need_weight:
                    for total, g, column in zip(grad_kernels, grads, _split(columns.detach(), geometry), strict=True):
                        total.addmm_(g, column)
            if need_x:
                grad_x[n] = grad_table.view(*geometry.in_size, -1).permute(2, 0, 1)
        grad_weight = torch.cat(grad_kernels).view(len(weight), *geometry.kernel_size, -1).permute(0, 3, 1, 2)
        grad_bias = grad.sum((0, 2, 3)) if need_bias else None
        return grad_x, grad_offset, grad_mask, grad_weight if need_weight else None, grad_bias, None


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
    """The function of ``mmcv.ops.modulated_deform_conv2d``, to rounding, in bounded memory.

    Args:
        x: Map ``(N, C, H, W)``; all tensors of one dtype, float32 or float64.
        offset: ``(N, deform_groups * kh * kw * 2, H', W')``, in pixels of ``x``, y before x for each tap.
        mask: ``(N, deform_groups * kh * kw, H', W')``.
        weight: ``(O, C / groups, kh, kw)``.
        bias: ``(O,)`` or None.
        stride, padding, dilation, groups: As in ``torch.nn.functional.conv2d``.
        deform_groups: Number of channel groups with offsets of their own.

    Returns:
        ``(N, O, H', W')``, channels-last if ``x`` is. Differentiable once in all tensors.

    Raises:
        ValueError: If the shapes do not fit together.
    """
    geometry = Geometry.of(x, offset, mask, weight, stride, padding, dilation, groups, deform_groups)
    return _ModulatedDeformConv2d.apply(x, offset, mask, weight, bias, geometry)
