"""Convolution layers by name."""

from __future__ import annotations

from mmcv.cnn import build_conv_layer
from torch import nn

from mmbirefnet.models.layers.dcn import layer as deform_conv  # noqa: F401  registers DCNv2
from mmbirefnet.registry import MODELS


def build_conv(conv_cfg: dict | None, *args, **kwargs) -> nn.Module:
    """Build a convolution, looking its type up in mmbirefnet's registry first, then in mmcv's.

    Args:
        conv_cfg: ``dict(type=name, **options)``, for example ``dict(type='DCNv2', backend='torch')``; None is a plain
            ``Conv2d``. A class instead of a name works too.
        *args, **kwargs: Those of ``torch.nn.Conv2d``.

    Raises:
        KeyError: If no registry knows the type.
    """
    if conv_cfg is not None and isinstance(conv_cfg.get('type'), str):
        layer = MODELS.get(conv_cfg['type'])
        if layer is None:
            raise KeyError(f'no convolution layer {conv_cfg["type"]!r} in the registries of mmbirefnet and mmcv')
        conv_cfg = {**conv_cfg, 'type': layer}
    return build_conv_layer(conv_cfg, *args, **kwargs)
