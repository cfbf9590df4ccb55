"""Models of the configs, small enough for tests."""

import copy
from pathlib import Path

import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import DefaultScope
from torch import nn

from mmbirefnet.registry import MODELS

ROOT = Path(__file__).parents[2]


def shrink(model: ConfigDict, embed_dims: int = 8) -> ConfigDict:
    """Make a Swin-L BiRefNet of a config small, in place, by dividing all channels by one factor."""
    factor = 192 // embed_dims
    model.backbone.update(
        arch=dict(embed_dims=embed_dims, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2), window_size=4),
        drop_path_rate=0,  # blocks that are left out have no gradient
        init_cfg=None,
    )
    model.backbone_channels = [channels // factor for channels in model.backbone_channels]
    for part in (model.neck, model.decode_head):
        part.aspp_cfg = dict(part.get('aspp_cfg', {}), branch_channels=8)
    return model


def finetune_model() -> ConfigDict:
    """The model of a config for fine-tuning, small and with one loss."""
    cfg = Config.fromfile(ROOT / 'configs/birefnet/birefnet_swin-l_1xb2-20e_finetune-1024x1024.py')
    cfg.model.decode_head.loss_decode = cfg.model.decode_head.loss_decode[:1]
    return shrink(cfg.model)


def build(config: dict, **more) -> nn.Module:
    """Build a model of a config with other options, the same one each time, in evaluation mode."""
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmseg'):
        return MODELS.build(copy.deepcopy({**config, **more})).eval()
