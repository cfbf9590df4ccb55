"""The reconstruction block of Zheng et al., 2024, and the pyramid pooling with deformable kernels inside it."""

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
        """Contribution of a branch to the merging convolution."""

        def merge(x: Tensor) -> Tensor:
            return F.conv2d(branch.act(branch.norm(x)), kernel)

        return recompute(branch, merge, branch.conv(x))

    def kernels(self) -> list[Tensor]:
        """Parts of the merging convolution's kernel, ``(out_channels, branch_channels, 1, 1)``, the pooled one's last.

        Branches are merged one by one, so their concatenation is never allocated.
        """
        return self.merge.conv.weight.chunk(len(self.branches) + 1, 1)

    def join(self, x: Tensor, parts: Iterable[Tensor]) -> Tensor:
        """The result for ``x`` from what each branch adds to the merging convolution, ``(N, out_channels, H, W)``."""
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
        """Maps ``(N, C, H, W)``, with ``in_channels`` channels together, to ``(N, out_channels, H, W)``.

        ``joined`` stands for further channels behind those of ``x``.
        """
        out = self.act(self.norm_in(_convolve(self.conv_in, x, joined)))
        if self.aspp is not None:
            out = self.aspp(out)
        out = self.norm_out(self.conv_out(out))
        return out if self.shortcut is None else out + _convolve(self.shortcut, x, joined)


def _convolve(conv: nn.Conv2d, x: Tensor, joined: Tensor | None) -> Tensor:
    """``conv(torch.cat([x, joined], 1))`` without making that map."""
    if joined is None:
        return conv(x)
    first, second = conv.weight.split((x.shape[1], joined.shape[1]), 1)
    out = F.conv2d(x, first, conv.bias, padding=conv.padding)
    out += F.conv2d(joined, second, padding=conv.padding)
    return out
