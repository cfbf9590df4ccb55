"""Reconstruction block of Zheng et al., 2024, with its deformable ASPP."""

from collections.abc import Iterable
from functools import partial

import torch.nn.functional as F
from mmcv.cnn import build_norm_layer
from mmengine.model import BaseModule, ModuleList
from torch import Tensor, nn

from mmbirefnet.models.layers.activation_checkpointing import recompute

from .dcn.layer import build_conv
from .norm import norm_pooled


class ConvNormReLU(BaseModule):
    """Convolution of any registered type that keeps the size of the map, norm, ReLU.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Odd kernel size in pixels.
        dilation: Dilation of the kernel.
        conv_cfg: Type of the convolution, see :func:`~mmbirefnet.models.layers.dcn.layer.build_conv`.
        norm_cfg: Type of the norm.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        dilation: int,
        conv_cfg: dict | None,
        norm_cfg: dict,
    ) -> None:
        super().__init__()
        self.conv = build_conv(
            conv_cfg,
            in_channels,
            out_channels,
            kernel_size,
            padding=dilation * (kernel_size // 2),
            dilation=dilation,
            bias=False,
        )
        self.norm = build_norm_layer(norm_cfg, out_channels)[1]
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Convert ``(N, in_channels, H, W)`` to ``(N, out_channels, H, W)``."""
        return self.act(self.norm(self.conv(x)))


class PooledBranch(BaseModule):
    """Global average pooling, 1x1 convolution, norm, ReLU."""

    def __init__(self, in_channels: int, out_channels: int, norm_cfg: dict) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.norm = build_norm_layer(norm_cfg, out_channels)[1]
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Convert ``(N, in_channels, H, W)`` to ``(N, out_channels, 1, 1)``."""
        return self.act(norm_pooled(self.norm, self.conv(x.mean((2, 3), keepdim=True))))


class ASPP(BaseModule):
    """Parallel convolutions with different receptive fields and a pooled branch, merged by a 1x1 convolution.

    The default, deformable kernels of 1, 1, 3 and 7 pixels, is the block of Zheng et al., 2024 (Sec. 3.3). Plain
    kernels with dilations 1, 6, 12 and 18 give the block of Chen et al., 2017 (arXiv:1706.05587).

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        branch_channels: Channels of each branch.
        kernel_sizes: Odd kernel sizes of the branches in pixels.
        dilations: Dilations of the branches.
        conv_cfg: Type of the branches' convolutions; ``None`` for plain ones.
        norm_cfg: Type of the norms.
        dropout_ratio: Dropout probability of the output.

    Raises:
        ValueError: If there are not as many dilations as kernel sizes.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        branch_channels: int = 256,
        kernel_sizes: tuple[int, ...] = (1, 1, 3, 7),
        dilations: tuple[int, ...] = (1, 1, 1, 1),
        conv_cfg: dict | None = dict(type='DCNv2'),
        norm_cfg: dict = dict(type='BN'),
        dropout_ratio: float = 0.5,
    ) -> None:
        super().__init__()
        if len(kernel_sizes) != len(dilations):
            raise ValueError(f'ASPP: {len(kernel_sizes)} kernel_sizes but {len(dilations)} dilations; give as many')
        self.branches = ModuleList(
            ConvNormReLU(in_channels, branch_channels, kernel_size, dilation, conv_cfg, norm_cfg)
            for kernel_size, dilation in zip(kernel_sizes, dilations)
        )
        self.pooled = PooledBranch(in_channels, branch_channels, norm_cfg)
        merged_channels = branch_channels * (len(kernel_sizes) + 1)
        self.merge = ConvNormReLU(merged_channels, out_channels, 1, 1, None, norm_cfg)
        self.dropout = nn.Dropout(dropout_ratio)

    def forward(self, x: Tensor) -> Tensor:
        """Convert ``(N, in_channels, H, W)`` to ``(N, out_channels, H, W)``."""
        return self.join(x, map(partial(self._part, x), self.branches, self.kernels()))

    def _part(self, x: Tensor, branch: ConvNormReLU, kernel: Tensor) -> Tensor:
        """Contribution of a branch to the merging convolution."""

        def merge(x: Tensor) -> Tensor:
            return F.conv2d(branch.act(branch.norm(x)), kernel)

        return recompute(branch, merge, branch.conv(x))

    def kernels(self) -> list[Tensor]:
        """Kernel of the merging convolution by branch, ``(out_channels, branch_channels, 1, 1)``, the pooled one last.

        Branches are merged one by one, so that their concatenation is never allocated.
        """
        return self.merge.conv.weight.chunk(len(self.branches) + 1, 1)

    def join(self, x: Tensor, parts: Iterable[Tensor]) -> Tensor:
        """Sum the contributions of the branches to the merging convolution, ``(N, out_channels, H, W)`` each."""
        out = F.conv2d(self.pooled(x), self.kernels()[-1], self.merge.conv.bias)
        for part in parts:
            out = part.add_(out)
        return self.dropout(self.merge.act(self.merge.norm(out)))


class ReconstructionBlock(BaseModule):
    """3x3 convolution, norm, ReLU, deformable ASPP, 3x3 convolution, norm (Sec. 3.3 of Zheng et al., 2024).

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        channels: Channels between the two convolutions.
        residual: Whether a 1x1 convolution of the input is added to the output.
        aspp_cfg: Arguments of :class:`ASPP`, such as ``conv_cfg``; ``None`` removes the ASPP.
        norm_cfg: Type of the norms.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        channels: int = 64,
        residual: bool = False,
        aspp_cfg: dict | None = dict(),
        norm_cfg: dict = dict(type='BN'),
    ) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(in_channels, channels, 3, padding=1)
        self.norm_in = build_norm_layer(norm_cfg, channels)[1]
        self.act = nn.ReLU(inplace=True)
        self.aspp = None if aspp_cfg is None else ASPP(channels, channels, norm_cfg=norm_cfg, **aspp_cfg)
        self.conv_out = nn.Conv2d(channels, out_channels, 3, padding=1)
        self.norm_out = build_norm_layer(norm_cfg, out_channels)[1]
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1) if residual else None

    def forward(self, x: Tensor, joined: Tensor | None = None) -> Tensor:
        """Return a map ``(N, out_channels, H, W)``.

        Args:
            x: Input, ``(N, C, H, W)``.
            joined: Further channels, ``(N, in_channels - C, H, W)``, as if concatenated to ``x``.
        """
        out = self.act(self.norm_in(_convolve(self.conv_in, x, joined)))
        if self.aspp is not None:
            out = self.aspp(out)
        out = self.norm_out(self.conv_out(out))
        return out if self.shortcut is None else out + _convolve(self.shortcut, x, joined)


def _convolve(conv: nn.Conv2d, x: Tensor, joined: Tensor | None) -> Tensor:
    """Compute ``conv(torch.cat([x, joined], 1))`` without allocating the concatenation."""
    if joined is None:
        return conv(x)
    first, second = conv.weight.split((x.shape[1], joined.shape[1]), 1)
    out = F.conv2d(x, first, conv.bias, padding=conv.padding)
    out += F.conv2d(joined, second, padding=conv.padding)
    return out
