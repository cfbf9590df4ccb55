"""Translations of the traced operators to ONNX operators for any map size."""

from __future__ import annotations

import itertools

import torch
from onnxscript import opset18 as op
from onnxscript import opset19

from . import deform_conv_export, dynamic_size  # noqa: F401  define the operators


def _ints(*values: int):
    return op.Constant(value_ints=values)


def _sizes(x, *axes: int):
    """Sizes of the axes of ``x``, each a tensor ``(1,)``."""
    return [op.Shape(x, start=axis, end=axis + 1) for axis in axes]


def _shape(*sizes):
    """A shape from numbers and tensors ``(1,)``."""
    return op.Concat(*(_ints(size) if isinstance(size, int) else size for size in sizes), axis=0)


def deform_conv(x, weight, offset, mask, stride, padding, dilation, groups, deform_groups):
    """``mmbirefnet::deform_conv2d`` as ``DeformConv`` of opset 19."""
    return opset19.DeformConv(
        x,
        weight,
        offset,
        None,
        mask,
        kernel_shape=list(weight.shape)[2:],
        strides=list(stride),
        pads=[*padding, *padding],
        dilations=list(dilation),
        group=groups,
        offset_group=deform_groups,
    )


def grid_sample_conv(x, weight, offset, mask, stride, padding, dilation, groups, deform_groups):
    """``mmbirefnet::deform_conv2d``, computed as in :class:`.deform_conv_export.GridSampleDeformConv`."""
    rows, cols = list(weight.shape)[2:]
    channels = weight.shape[1] * groups
    n, height, width = _sizes(offset, 0, 2, 3)
    images = op.Mul(n, _ints(deform_groups))
    x = op.Reshape(x, _shape(images, channels // deform_groups, *_sizes(x, 2, 3)))
    offset = op.Reshape(offset, _shape(images, rows, cols, 2, height, width))
    mask = op.Reshape(mask, _shape(images, rows, cols, height, width))
    positions = []
    for axis, size in enumerate((height, width)):
        pixels = op.Range(_scalar(0), op.Squeeze(size), _scalar(1))
        pixels = op.Add(op.Cast(op.Mul(pixels, _ints(stride[axis])), to=1), _float(0.5 - padding[axis]))
        pixels = op.Reshape(pixels, _ints(-1, 1) if axis == 0 else _ints(1, -1))
        positions.append((pixels, op.Div(_float(2.0), op.Cast(_sizes(x, 2 + axis)[0], to=1))))
    out = None
    for row in range(rows):
        taps = [op.Constant(value_floats=[float(row * dilation[0])] * cols)]
        taps.append(op.Constant(value_floats=[float(col * dilation[1]) for col in range(cols)]))
        at_row = op.Gather(offset, _scalar(row), axis=1)  # (images, cols, 2, H', W')
        grid = []
        for axis in (1, 0):  # x before y
            pixels, scale = positions[axis]
            undeformed = op.Add(op.Reshape(taps[axis], _ints(cols, 1, 1)), pixels)
            position = op.Add(op.Gather(at_row, _scalar(axis), axis=2), undeformed)
            grid.append(op.Unsqueeze(op.Sub(op.Mul(position, scale), _float(1.0)), _ints(-1)))
        stacked = op.Mul(height, _ints(cols))
        grid = op.Reshape(op.Concat(*grid, axis=-1), _shape(images, stacked, width, 2))
        row_mask = op.Reshape(
            op.Gather(mask, _scalar(row), axis=1), _shape(images, 1, op.Mul(height, _ints(cols)), width)
        )
        samples = op.Mul(op.GridSample(x, grid, mode='bilinear', padding_mode='zeros', align_corners=0), row_mask)
        samples = op.Reshape(samples, _shape(n, channels * cols, height, width))
        kernel = op.Gather(weight, _scalar(row), axis=2)  # (O, C / groups, cols)
        kernel = op.Reshape(kernel, _ints(weight.shape[0], channels // groups * cols, 1, 1))
        part = op.Conv(samples, kernel, group=groups)
        out = part if out is None else op.Add(out, part)
    return out


def window_attention(x, qkv_weight, qkv_bias, proj_weight, proj_bias, biases, num_heads, window_size, shift):
    """``mmbirefnet::window_attention``, computed as in :class:`mmbirefnet.models.backbones.swin.WindowAttention`."""
    size, channels = window_size, proj_weight.shape[0]
    pixels, dims = size * size, channels // num_heads
    n, height, width = _sizes(x, 0, 1, 2)
    rows, cols = (op.Div(op.Add(side, _ints(size - 1)), _ints(size)) for side in (height, width))
    below, right = (op.Sub(op.Mul(count, _ints(size)), side) for count, side in ((rows, height), (cols, width)))
    x = op.Pad(x, _shape(0, 0, 0, 0, 0, below, right, 0))
    if shift:
        x = _roll(x, shift)
    x = op.Transpose(op.Reshape(x, _shape(n, rows, size, cols, size, channels)), perm=[0, 1, 3, 2, 4, 5])
    windows = op.Mul(rows, cols)
    x = op.Reshape(x, _shape(n, windows, pixels, channels))
    qkv = op.Add(op.MatMul(x, op.Transpose(qkv_weight, perm=[1, 0])), qkv_bias)
    qkv = op.Reshape(qkv, _shape(n, windows, pixels, 3, num_heads, dims))
    q, k, v = (op.Gather(qkv, _scalar(i), axis=3) for i in range(3))  # (N, windows, L, heads, dims)
    q = op.Mul(op.Transpose(q, perm=[0, 1, 3, 2, 4]), _float(dims**-0.5))
    scores = op.MatMul(q, op.Transpose(k, perm=[0, 1, 3, 4, 2]))
    if shift:  # index of each window's bias: whether it is in the last row and column
        last_row, last_col = (op.Cast(op.Equal(_arange(n), op.Sub(n, _ints(1))), to=7) for n in (rows, cols))
        kinds = op.Add(op.Mul(op.Unsqueeze(last_row, _ints(1)), _ints(2)), last_col)
        biases = op.Gather(biases, op.Reshape(kinds, _ints(-1)), axis=0)
    weights = op.Softmax(op.Add(scores, biases), axis=-1)
    x = op.MatMul(weights, op.Transpose(v, perm=[0, 1, 3, 2, 4]))
    x = op.Reshape(op.Transpose(x, perm=[0, 1, 3, 2, 4]), _shape(n, rows, cols, size, size, channels))
    x = op.Add(op.MatMul(x, op.Transpose(proj_weight, perm=[1, 0])), proj_bias)
    x = op.Transpose(x, perm=[0, 1, 3, 2, 4, 5])
    x = op.Reshape(x, _shape(n, op.Mul(rows, _ints(size)), op.Mul(cols, _ints(size)), channels))
    if shift:
        x = _roll(x, -shift)
    return op.Slice(x, _ints(0, 0), op.Concat(height, width, axis=0), _ints(1, 2))


def resize(x, image, stride):
    """``mmbirefnet::resize``: bilinear with aligned corners, to the size of the image divided by the stride."""
    sizes = op.Div(op.Shape(image, start=2), _ints(stride))
    sizes = op.Concat(op.Shape(x, start=0, end=2), sizes, axis=0)
    return op.Resize(x, None, None, sizes, coordinate_transformation_mode='align_corners', mode='linear')


def image_to_patches(image, grid):
    """``mmbirefnet::image_to_patches``, as in :func:`mmbirefnet.models.layers.reference.image_to_patches`."""
    n, height, width = _sizes(image, 0, 2, 3)
    channels, (height, width) = image.shape[1], (op.Div(side, _ints(grid)) for side in (height, width))
    patches = op.Reshape(image, _shape(n, channels, grid, height, grid, width))
    patches = op.Transpose(patches, perm=[0, 1, 2, 4, 3, 5])
    return op.Reshape(patches, _shape(n, channels * grid**2, height, width))


def merge_patches(x):
    """``mmbirefnet::merge_patches`` as in :class:`mmbirefnet.models.backbones.swin.PatchMerging`."""
    n, height, width = _sizes(x, 0, 1, 2)
    channels = x.shape[3]
    rows, cols = (op.Div(op.Add(side, _ints(1)), _ints(2)) for side in (height, width))
    below, right = (op.Sub(op.Mul(count, _ints(2)), side) for count, side in ((rows, height), (cols, width)))
    x = op.Reshape(op.Pad(x, _shape(0, 0, 0, 0, 0, below, right, 0)), _shape(n, rows, 2, cols, 2, channels))
    return op.Reshape(op.Transpose(x, perm=[0, 1, 3, 4, 2, 5]), _shape(n, rows, cols, 4 * channels))


def split(x, size: int, dim: int = 0):
    """``aten::split``, see :func:`split_with_sizes`."""
    whole = x.shape[dim]
    return split_with_sizes(x, [min(size, whole - start) for start in range(0, whole, size)], dim)


def split_with_sizes(x, sizes: list[int], dim: int = 0):
    """``aten::split_with_sizes`` as slices: the exporter writes sequences of tensors, which some runtimes lack."""
    ends = list(itertools.accumulate(sizes))
    return [op.Slice(x, _ints(end - size), _ints(end), _ints(dim)) for size, end in zip(sizes, ends, strict=True)]


def _roll(x, shift: int):
    """``x.roll((-shift, -shift), (1, 2))``."""
    for axis in (1, 2):
        end = _ints(2**31)
        first = op.Slice(x, _ints(0), _ints(shift), _ints(axis))
        second = op.Slice(x, _ints(shift), end, _ints(axis))
        x = op.Concat(second, first, axis=axis)
    return x


def _arange(size):
    return op.Range(_scalar(0), op.Squeeze(size), _scalar(1))


def _scalar(value: int):
    return op.Constant(value_int=value)


def _float(value: float):
    return op.Constant(value_float=value)


DEFORM_CONVS = {'standard': deform_conv, 'gridsample': grid_sample_conv}


def translations(form: str) -> dict:
    """Translation of each operator for ``torch.onnx.export``, with this form of deformable convolutions."""
    ops = torch.ops.mmbirefnet
    return {
        torch.ops.aten.split.Tensor: split,
        torch.ops.aten.split_with_sizes.default: split_with_sizes,
        ops.deform_conv2d.default: DEFORM_CONVS[form],
        ops.window_attention.default: window_attention,
        ops.merge_patches.default: merge_patches,
        ops.image_to_patches.default: image_to_patches,
        ops.resize.default: resize,
    }
