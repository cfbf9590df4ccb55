"""The reconstruction block (RB) of Zheng et al., 2024."""

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

    def forward(self, x: Tensor) -> Tensor:
        """``(N, in_channels, H, W)`` to ``(N, out_channels, H, W)``."""
        out = self.act(self.norm_in(self.conv_in(x)))
        if self.aspp is not None:
            out = self.aspp(out)
        out = self.norm_out(self.conv_out(out))
        return out if self.shortcut is None else out + self.shortcut(x)
