"""Atrous spatial pyramid pooling with deformable kernels."""

from collections.abc import Iterable
from functools import partial

import torch.nn.functional as F
from mmcv.cnn import build_norm_layer
from mmengine.model import BaseModule, ModuleList
from torch import Tensor, nn

from mmbirefnet.models.layers.activation_checkpointing import recompute

from .conv import build_conv
from .norm import norm_pooled


class ConvNormReLU(BaseModule):
    """A convolution of any registered type that keeps the map's size, a norm and a ReLU."""

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
        return self.act(self.norm(self.conv(x)))


class PooledBranch(BaseModule):
    """Global average pooling, a 1x1 convolution, a norm and a ReLU: ``(N, C, H, W)`` to ``(N, C', 1, 1)``."""

    def __init__(self, in_channels: int, out_channels: int, norm_cfg: dict) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.norm = build_norm_layer(norm_cfg, out_channels)[1]
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(norm_pooled(self.norm, self.conv(x.mean((2, 3), keepdim=True))))


class ASPP(BaseModule):
    """Parallel convolutions with different receptive fields and a pooled branch, merged by a 1x1 convolution.

    With deformable kernels of 1, 1, 3 and 7 pixels (the default) it is the block of Zheng et al., 2024 (Sec. 3.3);
    with plain ones of dilation 1, 6, 12 and 18 that of Chen et al., 2017 (arXiv:1706.05587).

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        branch_channels: Channels of each branch.
        kernel_sizes: Odd kernel sizes of the branches in pixels.
        dilations: Dilations of the branches.
        conv_cfg: Type of the branches' convolutions; ``None`` for plain ones.
        norm_cfg: Type of the norms.
        dropout_ratio: Dropout probability of the output.
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
        """``(N, in_channels, H, W)`` to ``(N, out_channels, H, W)``."""
        return self.join(x, map(partial(self._part, x), self.branches, self.kernels()))

    def _part(self, x: Tensor, branch: ConvNormReLU, kernel: Tensor) -> Tensor:
        """What a branch adds to the merging convolution."""

        def merge(x: Tensor) -> Tensor:
            return F.conv2d(branch.act(branch.norm(x)), kernel)

        return recompute(branch, merge, branch.conv(x))

    def kernels(self) -> list[Tensor]:
        """Parts of the merging convolution's kernel, ``(out_channels, branch_channels, 1, 1)``, the pooled one's last.

        It takes the branches one by one, so that their concatenation is never made.
        """
        return self.merge.conv.weight.chunk(len(self.branches) + 1, 1)

    def join(self, x: Tensor, parts: Iterable[Tensor]) -> Tensor:
        """The result for ``x`` from what each branch adds to the merging convolution, ``(N, out_channels, H, W)``."""
        out = F.conv2d(self.pooled(x), self.kernels()[-1], self.merge.conv.bias)
        for part in parts:
            out = part.add_(out)
        return self.dropout(self.merge.act(self.merge.norm(out)))
