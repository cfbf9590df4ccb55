"""Sizes and options of a modulated deformable convolution, checked once for all implementations."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor
from torch.nn.modules.utils import _pair


class Geometry(NamedTuple):
    """Sizes and options of a modulated deformable convolution; pairs are (vertical, horizontal)."""

    in_size: tuple[int, int]
    out_size: tuple[int, int]
    kernel_size: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int
    deform_groups: int

    @property
    def taps(self) -> int:
        return self.kernel_size[0] * self.kernel_size[1]

    @property
    def pixels(self) -> int:
        return self.out_size[0] * self.out_size[1]

    @classmethod
    def of(
        cls,
        x: Tensor,
        offset: Tensor,
        mask: Tensor,
        weight: Tensor,
        stride: int | tuple[int, int],
        padding: int | tuple[int, int],
        dilation: int | tuple[int, int],
        groups: int,
        deform_groups: int,
    ) -> Geometry:
        """Geometry of a call of ``modulated_deform_conv2d``, which has the same arguments.

        Raises:
            ValueError: If the shapes do not fit together.
        """
        stride, padding, dilation = _pair(stride), _pair(padding), _pair(dilation)
        in_size, kernel_size = tuple(x.shape[2:]), tuple(weight.shape[2:])
        out_size = tuple(
            (size + 2 * p - d * (k - 1) - 1) // s + 1
            for size, k, s, p, d in zip(in_size, kernel_size, stride, padding, dilation, strict=True)
        )
        if min(out_size) < 1:
            raise ValueError(f'a {in_size} map is too small for kernel {kernel_size}, dilation {dilation}')
        geometry = cls(in_size, out_size, kernel_size, stride, padding, dilation, groups, deform_groups)
        channels, out_channels = x.shape[1], len(weight)
        if (
            channels % groups
            or channels % deform_groups
            or out_channels % groups
            or weight.shape[1] != channels // groups
        ):
            raise ValueError(
                f'{channels} channels and a kernel of shape {tuple(weight.shape)} do not fit '
                f'groups={groups}, deform_groups={deform_groups}'
            )
        for name, tensor, per_tap in (('offset', offset, 2), ('mask', mask, 1)):
            expected = (len(x), per_tap * deform_groups * geometry.taps, *out_size)
            if tensor.shape != expected:
                raise ValueError(f'{name} must have shape {expected}, got {tuple(tensor.shape)}')
        return geometry
