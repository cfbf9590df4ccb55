"""The reconstruction block (RB) of Zheng et al., 2024."""

import torch.nn.functional as F
from mmcv.cnn import build_norm_layer
from mmengine.model import BaseModule
from torch import Tensor, nn

from .aspp import ASPP


class ReconstructionBlock(BaseModule):
    """3x3 convolution, norm, ReLU, deformable ASPP, 3x3 convolution, norm (Sec. 3.3 of Zheng et al., 2024).

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        channels: Channels between the two convolutions.
        residual: Whether a 1x1 convolution of the input is added to the output.
        aspp_cfg: Arguments of :class:`ASPP`, such as ``conv_cfg``; ``None`` leaves the ASPP out.
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
