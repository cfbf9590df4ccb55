"""Deformable convolutions for export: as one operator, or as grid samples and plain convolutions."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from mmcv.ops import ModulatedDeformConv2dPack
from packaging.version import Version
from torch import Tensor, nn

from mmbirefnet.models import DCNv2
from mmbirefnet.models.layers.dcn.torch_backend import modulated_deform_conv2d

if Version(torch.__version__) < Version('2.6'):
    raise ImportError(f'export needs torch 2.6 or later, found {torch.__version__}')


@torch.library.custom_op('mmbirefnet::deform_conv2d', mutates_args=())
def deform_conv2d(
    x: Tensor,
    weight: Tensor,
    offset: Tensor,
    mask: Tensor,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    deform_groups: int,
) -> Tensor:
    """Modulated deformable convolution as one operator for tracing; ``DeformConv`` in ONNX.

    Arguments and result are those of ``mmbirefnet.models.layers.dcn.torch_backend.modulated_deform_conv2d``, in the
    order of ONNX.
    """
    return modulated_deform_conv2d(x, offset, mask, weight, None, stride, padding, dilation, groups, deform_groups)


@deform_conv2d.register_fake
def _(x, weight, offset, mask, stride, padding, dilation, groups, deform_groups):
    return x.new_empty((x.shape[0], weight.shape[0], *offset.shape[2:]))


class _ExportedDeformConv(nn.Module):
    """Replacement of a DCNv2 layer; the kernel includes the scale of the masks.

    Args:
        layer: The layer.
    """

    def __init__(self, layer: ModulatedDeformConv2dPack) -> None:
        super().__init__()
        self.conv_offset = layer.conv_offset
        scale = layer.mask_scale if isinstance(layer, DCNv2) else 1.0  # mmcv's layer does not scale its masks
        self.weight, self.bias = nn.Parameter(scale * layer.weight.detach(), requires_grad=False), layer.bias
        self.stride, self.padding, self.dilation = layer.stride, layer.padding, layer.dilation
        self.groups, self.deform_groups = layer.groups, layer.deform_groups

    def forward(self, x: Tensor) -> Tensor:
        """Convert ``(N, in_channels, H, W)`` to ``(N, out_channels, H', W')``."""
        return self.deform(x, self.conv_offset(x))

    def deform(self, x: Tensor, offset_mask: Tensor, then: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Convolve with the given offsets and masks, then apply ``then``; see ``DCNv2.deform``."""
        taps = offset_mask.shape[1] // 3
        offset, mask = offset_mask.split((2 * taps, taps), 1)
        out = self.convolve(x, offset, mask.sigmoid())
        out = out if self.bias is None else out + self.bias[:, None, None]
        if then is None:
            return out
        # With one axis of pixels, runtimes optimize this to a product with a transposed matrix.
        return then(out.flatten(2).transpose(1, 2)).transpose(1, 2).unflatten(2, out.shape[2:])

    def convolve(self, x: Tensor, offset: Tensor, mask: Tensor) -> Tensor:
        """Convolve without bias; offset and mask as in ``mmcv.ops.modulated_deform_conv2d``."""
        raise NotImplementedError


class OperatorDeformConv(_ExportedDeformConv):
    """A DCNv2 layer whose convolution is the operator :func:`deform_conv2d`."""

    def convolve(self, x: Tensor, offset: Tensor, mask: Tensor) -> Tensor:
        pairs = (list(pair) for pair in (self.stride, self.padding, self.dilation))
        return deform_conv2d(x, self.weight, offset, mask, *pairs, self.groups, self.deform_groups)


class GridSampleDeformConv(_ExportedDeformConv):
    """A DCNv2 layer of ``grid_sample`` and plain 1x1 convolutions, one row of the kernel at a time.

    Only the samples of one row are in memory, 7 of 49 for the largest kernel.
    """

    def __init__(self, layer: ModulatedDeformConv2dPack) -> None:
        super().__init__(layer)
        rows = self.weight.permute(2, 0, 1, 3).flatten(2)[..., None, None]
        self.kernels = nn.ParameterList(nn.Parameter(row.clone(), requires_grad=False) for row in rows)
        self.kernel_size = tuple(self.weight.shape[2:])
        self.weight = None

    def convolve(self, x: Tensor, offset: Tensor, mask: Tensor) -> Tensor:
        (n, channels), (height, width), (rows, cols) = x.shape[:2], offset.shape[2:], self.kernel_size
        images = n * self.deform_groups
        # Deformable groups are independent, so they become images: (N * groups, channels of a group, H, W).
        x = x.reshape(images, channels // self.deform_groups, *x.shape[2:])
        grids = self._grid(offset.reshape(images, rows, cols, 2, height, width), x.shape[2:]).split(cols * height, 1)
        masks = mask.reshape(images, 1, rows * cols * height, width).split(cols * height, 2)
        out = None
        for kernel, grid, row_mask in zip(self.kernels, grids, masks):
            samples = F.grid_sample(x, grid, mode='bilinear', padding_mode='zeros', align_corners=False) * row_mask
            part = F.conv2d(samples.reshape(n, channels * cols, height, width), kernel, groups=self.groups)
            out = part if out is None else out + part
        return out

    def _grid(self, offset: Tensor, in_size: tuple[int, int]) -> Tensor:
        """Positions of the taps for ``grid_sample``: x before y, where -1 and 1 are the outer edges of the map.

        Edges instead of centers of the outermost pixels, since these coincide if the map is one pixel wide.

        Args:
            offset: ``(N * groups, rows, cols, 2, H', W')``, y before x.
            in_size: (H, W) of the map that is read.

        Returns:
            ``(N * groups, rows * cols * H', W', 2)``.
        """
        positions = []
        for axis in (0, 1):
            pixel = torch.arange(offset.shape[4 + axis], device=offset.device) * self.stride[axis] - self.padding[axis]
            tap = torch.arange(self.kernel_size[axis], device=offset.device) * self.dilation[axis]
            # (rows, 1, H', 1) of y, (1, cols, 1, W') of x
            pixel, tap = (pixel[:, None], tap[:, None, None, None]) if axis == 0 else (pixel, tap[:, None, None])
            scale = 2 / in_size[axis]
            positions.append(offset[:, :, :, axis] * scale + ((pixel + tap + 0.5) * scale - 1))
        return torch.stack(positions[::-1], -1).flatten(1, 3)


FORMS = {'standard': OperatorDeformConv, 'gridsample': GridSampleDeformConv}


def replace_deform_convs(model: nn.Module, form: str | type[_ExportedDeformConv]) -> nn.Module:
    """Replace the DCNv2 layers of a model by their export form, in place.

    Args:
        model: Any model.
        form: ``'standard'``, ``'gridsample'``, or a class.

    Raises:
        ValueError: If the form is unknown.
    """
    if isinstance(form, str) and form not in FORMS:
        raise ValueError(f'deform_conv must be one of {", ".join(map(repr, FORMS))}, got {form!r}')
    form = FORMS.get(form, form)
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, ModulatedDeformConv2dPack):
                setattr(module, name, form(child))
    return model
