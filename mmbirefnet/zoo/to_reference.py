"""Trained weights in the form of the reference implementation, for programs that are built on it.

The inverse of :func:`mmbirefnet.utils.convert_birefnet_state_dict`: names, one convolution each for offset and
modulator, one final convolution, and the crops of the inward reference by rows, as the present code stacks them.
"""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from mmbirefnet.models.backbones.swin import relative_position_index
from mmbirefnet.utils.architecture import infer_model_config
from mmbirefnet.utils.atomic import replacing
from mmbirefnet.utils.backbones import infer_backbone
from mmbirefnet.utils.backbones.pvtv2 import RENAMES as PVTV2_RENAMES  # noqa: F401
from mmbirefnet.utils.checkpoint_io import read_checkpoint
from mmbirefnet.utils.convert import load_birefnet, strip_prefixes

from .catalog import find_checkpoint, get_info
from .crop_order import AUTO, ROWS

# Applied to each key outside of the backbone, one after another.
RENAMES = (
    (r'^neck\.classifier\.', 'cls_head.0.'),
    (r'^neck\.squeeze\.', 'squeeze_module.0.'),
    (r'^neck\.projections\.(\d)\.', lambda match: f'decoder.pyramid_neck_x{int(match[1]) + 1}.conv.'),
    (r'^decode_head\.blocks\.(\d)\.reconstruction\.', r'decoder.decoder_block\1.'),
    (r'^decode_head\.laterals\.(\d)\.', r'decoder.lateral_block\1.conv.'),
    (r'^decode_head\.blocks\.(\d)\.side\.', r'decoder.conv_ms_spvn_\1.'),
    (r'^decode_head\.blocks\.(\d)\.outward\.conv\.', r'decoder.gdt_convs_\1.0.'),
    (r'^decode_head\.blocks\.(\d)\.outward\.norm\.', r'decoder.gdt_convs_\1.1.'),
    (r'^decode_head\.blocks\.(\d)\.outward\.gradient\.', r'decoder.gdt_convs_pred_\1.0.'),
    (r'^decode_head\.blocks\.(\d)\.outward\.attention\.', r'decoder.gdt_convs_attn_\1.0.'),
    (r'^decode_head\.inward\.', 'decoder.ipt_blk1.'),
    (r'^decode_head\.blocks\.(\d)\.inward\.', lambda match: f'decoder.ipt_blk{int(match[1]) + 1}.'),
    (r'(?<=^decoder\.ipt_blk\d\.)conv_in\.', 'conv1.'),
    (r'^decode_head\.conv_logits\.', 'decoder.conv_out1.0.'),
    (r'\.norm_(in|out)\.', r'.bn_\1.'),
    (r'\.shortcut\.', '.conv_resi.'),
    (r'\.aspp\.pooled\.conv\.', '.dec_att.global_avg_pool.1.'),
    (r'\.aspp\.pooled\.norm\.', '.dec_att.global_avg_pool.2.'),
    (r'\.aspp\.merge\.conv\.', '.dec_att.conv1.'),
    (r'\.aspp\.merge\.norm\.', '.dec_att.bn1.'),
)
