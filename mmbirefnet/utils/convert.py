"""Conversion of the reference implementation's checkpoints."""

import re

import torch
from torch import Tensor

from ..models.backbones.swin import ARCHITECTURES
from ..models.backbones.swin_checkpoint import BUFFERS

PREFIXES = ('module.', '_orig_mod.', 'model.')

# Applied to each key one after another. The reference counts inward references from 5 (deepest) to 1 (full resolution)
# and blocks from 4 to 1.
RENAMES = (
    (r'^bb\.', 'backbone.'),
    (r'^cls_head\.0\.', 'neck.classifier.'),
    (r'^squeeze_module\.0\.', 'neck.squeeze.'),
    (r'^decoder\.decoder_block(\d)\.', r'decode_head.blocks.\1.reconstruction.'),
    (r'^decoder\.lateral_block(\d)\.conv\.', r'decode_head.laterals.\1.'),
    (r'^decoder\.conv_ms_spvn_(\d)\.', r'decode_head.blocks.\1.side.'),
    (r'^decoder\.gdt_convs_(\d)\.0\.', r'decode_head.blocks.\1.outward.conv.'),
    (r'^decoder\.gdt_convs_(\d)\.1\.', r'decode_head.blocks.\1.outward.norm.'),
    (r'^decoder\.gdt_convs_pred_(\d)\.0\.', r'decode_head.blocks.\1.outward.gradient.'),
    (r'^decoder\.gdt_convs_attn_(\d)\.0\.', r'decode_head.blocks.\1.outward.attention.'),
    (r'^decoder\.ipt_blk1\.', 'decode_head.inward.'),
    (r'^decoder\.ipt_blk(\d)\.', lambda match: f'decode_head.blocks.{int(match[1]) - 1}.inward.'),
    (r'^decoder\.conv_out1\.0\.', 'decode_head.conv_logits.'),
    (r'(?<=inward\.)conv1\.', 'conv_in.'),
    (r'\.bn_(in|out)\.', r'.norm_\1.'),
    (r'\.conv_resi\.', '.shortcut.'),
    # The first branch stands alone; deformable ones behind it are counted from 0, dilated ones named from 2.
    (r'\.dec_att\.aspp(\d)\.', lambda match: f'.aspp.branches.{int(match[1]) - 1}.'),
    (r'\.dec_att\.aspp_deforms\.(\d)\.', lambda match: f'.aspp.branches.{int(match[1]) + 1}.'),
    (r'(branches\.\d\.)atrous_conv\.', r'\1conv.'),
    (r'(branches\.\d\.)bn\.', r'\1norm.'),
    (r'\.conv\.regular_conv\.', '.conv.'),
    (r'\.conv\.offset_conv\.', '.conv.conv_offset.'),
    (r'\.dec_att\.global_avg_pool\.1\.', '.aspp.pooled.conv.'),
    (r'\.dec_att\.global_avg_pool\.2\.', '.aspp.pooled.norm.'),
    (r'\.dec_att\.conv1\.', '.aspp.merge.conv.'),
    (r'\.dec_att\.bn1\.', '.aspp.merge.norm.'),
)
OURS = ('backbone.', 'neck.', 'decode_head.')

# Convolutions that a norm follows, and that norm.
NORMED_CONVS = (
    (r'(.+\.(?:squeeze|reconstruction)\.)conv_(in|out)\.weight', r'\1norm_\2'),
    (r'(.+\.aspp\.(?:branches\.\d|merge|pooled)\.)conv\.weight', r'\1norm'),
    (r'(.+\.outward\.)conv\.weight', r'\1norm'),
)
NORM_EPS = 1e-5


def strip_prefixes(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Leave out what DistributedDataParallel, ``torch.compile`` and wrappers put before every key."""
    stripped = {}
    for key, value in state_dict.items():
        while key.startswith(PREFIXES):
            key = key.split('.', 1)[1]
        stripped[key] = value
    return stripped


def _rename(key: str) -> str:
    for pattern, name in RENAMES:
        key = re.sub(pattern, name, key)
    return key


def _identity_norms(converted: dict[str, Tensor]) -> dict[str, Tensor]:
    """Norms for a checkpoint trained without any (batch size 1), which compute the identity in evaluation."""
    norms = {}
    for key, value in converted.items():
        for conv, norm in NORMED_CONVS:
            match = re.fullmatch(conv, key)
            if match is not None:
                name, channels = match.expand(norm), value.shape[0]
                norms[f'{name}.weight'] = value.new_ones(channels)
                norms[f'{name}.bias'] = value.new_zeros(channels)
                norms[f'{name}.running_mean'] = value.new_zeros(channels)
                # The norm divides by sqrt(var + eps).
                norms[f'{name}.running_var'] = value.new_full((channels,), 1 - NORM_EPS)
                norms[f'{name}.num_batches_tracked'] = torch.tensor(0)
    return norms


def convert_birefnet_state_dict(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Turn parameters of the reference implementation into those of :class:`mmbirefnet.models.BiRefNet`.

    Every operation is differentiable. Two are more than a new name: mmcv's DCNv2 holds offset and modulator in one
    convolution and has no factor 2 behind the mask's sigmoid, so its kernel is twice the reference's; and the last 1x1
    convolution is split into the part of the decoder's map and that of the image.

    Args:
        state_dict: Keys as released (``bb.``, ``squeeze_module.``, ``decoder.``, ``cls_head.``), with or without the
            prefixes ``module.``, ``_orig_mod.`` and ``model.``.

    Returns:
        Keys of this project. Norms that a checkpoint trained at batch size 1 lacks are the identity.

    Raises:
        ValueError: If these are not the parameters of a BiRefNet; the message says what was expected and found.
    """
    source = strip_prefixes(state_dict)
    if 'decoder.conv_out1.0.weight' not in source or not any(key.startswith('bb.') for key in source):
        raise ValueError(
            'not a BiRefNet checkpoint: expected keys that start with "bb.", "squeeze_module." and "decoder." '
            f'(among them decoder.conv_out1.0.weight), found {len(source)} keys such as {sorted(source)[:4]}'
        )
    converted = {}
    for key, value in source.items():
        if key.endswith(BUFFERS) or '.modulator_conv.' in key:
            continue
        if '.offset_conv.' in key:
            value = torch.cat([value, source[key.replace('.offset_conv.', '.modulator_conv.')]])
        elif '.regular_conv.' in key:
            value = 2 * value
        converted[_rename(key)] = value
    unknown = [key for key in converted if not key.startswith(OURS)]
    if unknown:
        raise ValueError(
            'not a BiRefNet checkpoint of a known form: '
            f'{len(unknown)} of {len(source)} keys have no counterpart, such as {sorted(unknown)[:4]}'
        )
    if 'decode_head.inward.conv_out.weight' in converted:
        channels = converted['decode_head.blocks.1.reconstruction.conv_out.weight'].shape[0]
        weight = converted['decode_head.conv_logits.weight']
        converted['decode_head.conv_logits.weight'] = weight[:, :channels]
        converted['decode_head.conv_logits_inward.weight'] = weight[:, channels:]
    if not any(key.endswith('running_mean') for key in converted):
        converted.update(_identity_norms(converted))
    return converted


def infer_model_config(state_dict: dict[str, Tensor]) -> dict:
    """Tell the architecture from a converted state dict.

    Returns:
        The arguments that differ between variants: ``backbone``, ``multi_scale_input``, ``neck`` and ``decode_head``,
        as in a config's ``model``.

    Raises:
        ValueError: If the backbone is none that this project knows.
    """
    arch = _infer_swin(state_dict)
    width = ARCHITECTURES[arch]['embed_dims']
    shape = {key: tuple(value.shape) for key, value in state_dict.items()}
    lateral = shape['decode_head.laterals.2.weight'][0]
    in_channels = [lateral * 2**i for i in range(4)]
    squeeze = 'neck.squeeze.conv_in.weight' in shape
    branch = 'decode_head.blocks.4.reconstruction.aspp.branches'
    if f'{branch}.0.conv.conv_offset.weight' in shape:
        aspp_cfg = dict()
    elif f'{branch}.0.conv.weight' in shape:
        aspp_cfg = dict(conv_cfg=None, kernel_sizes=(1, 3, 3, 3), dilations=(1, 6, 12, 18))
    else:
        aspp_cfg = None
    residual = 'decode_head.blocks.4.reconstruction.shortcut.weight' in shape
    return dict(
        backbone=dict(arch=arch),
        multi_scale_input=lateral == 2 * width,
        neck=dict(
            in_channels=in_channels,
            context=squeeze and shape['neck.squeeze.conv_in.weight'][1] == sum(in_channels),
            squeeze=squeeze,
            aux_classifier='neck.classifier.weight' in shape,
            aspp_cfg=aspp_cfg,
        ),
        decode_head=dict(
            in_channels=in_channels,
            inward_reference='decode_head.inward.conv_in.weight' in shape,
            outward_reference='decode_head.blocks.4.outward.conv.weight' in shape,
            multi_scale_supervision='decode_head.blocks.4.side.weight' in shape,
            gradient_supervision='decode_head.blocks.4.outward.gradient.weight' in shape,
            residual=residual,
            aspp_cfg=aspp_cfg,
        ),
    )


def _infer_swin(state_dict: dict[str, Tensor]) -> str:
    proj = state_dict.get('backbone.patch_embed.proj.weight')
    table = state_dict.get('backbone.layers.0.blocks.0.attn.relative_position_bias_table')
    if proj is None or table is None:
        found = sorted(key for key in state_dict if key.startswith('backbone.'))[:3]
        raise ValueError(f'expected a Swin Transformer behind "bb.", found {found}')
    depths = tuple(
        len({key.split('.')[4] for key in state_dict if key.startswith(f'backbone.layers.{i}.blocks.')})
        for i in range(4)
    )
    found = dict(embed_dims=proj.shape[0], depths=depths, window_size=(round(table.shape[0] ** 0.5) + 1) // 2)
    for name, arch in ARCHITECTURES.items():
        if all(arch[option] == value for option, value in found.items()):
            return name
    raise ValueError(f'no known Swin Transformer has {found}; known are {ARCHITECTURES}')
