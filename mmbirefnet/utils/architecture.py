"""The architecture of a BiRefNet, told from its parameters."""

from collections.abc import Mapping

import torch
from mmengine.registry import DefaultScope
from torch import Tensor

from mmbirefnet.registry import MODELS

from ..models.backbones.swin import ARCHITECTURES
from .checkpoint_io import misfit


def infer_model_config(state_dict: Mapping[str, Tensor]) -> dict:
    """Tell the architecture from names and shapes.

    What leaves no trace in the parameters (drop rates, losses, side outputs that are trained for the gradient targets
    alone) has its default.

    Args:
        state_dict: Parameters in this project's form.

    Returns:
        The config of the model: what ``MODELS.build`` takes.

    Raises:
        ValueError: If the backbone is none that this project knows, or the decoder is not BiRefNet's.
    """
    shapes = {key: tuple(value.shape) for key, value in state_dict.items()}
    arch = _infer_swin(shapes)
    for key in ('decode_head.laterals.2.weight', 'decode_head.blocks.4.reconstruction.conv_in.weight'):
        if key not in shapes:
            raise ValueError(f'not a whole BiRefNet: {key} is missing')
    c1 = shapes['decode_head.laterals.2.weight'][0]
    in_channels = [c1 * 2**i for i in range(4)]
    neck = dict(
        type='mmbirefnet.LocalizationModule',
        in_channels=in_channels,
        squeeze='neck.squeeze.conv_in.weight' in shapes,
        aux_classifier='neck.classifier.weight' in shapes,
    )
    neck['context'] = neck['squeeze'] and shapes['neck.squeeze.conv_in.weight'][1] == sum(in_channels)
    if neck['squeeze']:
        neck['aspp_cfg'] = _infer_aspp(shapes, 'neck.squeeze')
    if neck['aux_classifier']:
        neck['num_classes'] = shapes['neck.classifier.weight'][0]
    block = 'decode_head.blocks.4'
    return dict(
        type='mmbirefnet.BiRefNet',
        backbone=dict(type='mmbirefnet.SwinTransformer', arch=arch),
        multi_scale_input=c1 == 2 * ARCHITECTURES[arch]['embed_dims'],
        neck=neck,
        decode_head=dict(
            type='mmbirefnet.BiRefHead',
            in_channels=in_channels,
            inward_reference='decode_head.inward.conv_in.weight' in shapes,
            outward_reference=f'{block}.outward.conv.weight' in shapes,
            multi_scale_supervision=f'{block}.side.weight' in shapes,
            gradient_supervision=f'{block}.outward.gradient.weight' in shapes,
            residual=f'{block}.reconstruction.shortcut.weight' in shapes,
            aspp_cfg=_infer_aspp(shapes, f'{block}.reconstruction'),
        ),
    )


def _infer_aspp(shapes: dict[str, tuple[int, ...]], block: str) -> dict | None:
    """Arguments of the ASPP of a reconstruction block; ``None`` if it has none."""
    branches = f'{block}.aspp.branches'
    if f'{branches}.0.conv.weight' not in shapes:
        return None
    if f'{branches}.0.conv.conv_offset.weight' in shapes:
        return dict()
    kernel_sizes = tuple(shapes[f'{branches}.{i}.conv.weight'][-1] for i in range(4))
    if kernel_sizes == (1, 3, 3, 3):
        return dict(conv_cfg=None, kernel_sizes=kernel_sizes, dilations=(1, 6, 12, 18))
    return dict(conv_cfg=None)


def _infer_swin(shapes: dict[str, tuple[int, ...]]) -> str:
    """Name of the Swin Transformer among ``ARCHITECTURES``."""
    dims, *_ = shapes.get('backbone.patch_embed.proj.weight', (None,))
    pairs, *_ = shapes.get('backbone.layers.0.blocks.0.attn.relative_position_bias_table', (None,))
    if dims is None or pairs is None:
        found = sorted(key for key in shapes if key.startswith('backbone.'))[:3]
        raise ValueError(f'expected the parameters of a Swin Transformer backbone, found {found}')
    depths = tuple(
        len({key.split('.')[4] for key in shapes if key.startswith(f'backbone.layers.{i}.blocks.')}) for i in range(4)
    )
    found = dict(embed_dims=dims, depths=depths, window_size=(round(pairs**0.5) + 1) // 2)
    for name, arch in ARCHITECTURES.items():
        if all(arch[option] == value for option, value in found.items()):
            return name
    raise ValueError(f'no known Swin Transformer has {found}; known are {ARCHITECTURES}')


def check_fit(state_dict: Mapping[str, Tensor], model: dict) -> None:
    """Make sure that parameters are those of a model, no more, no fewer, each of its shape.

    Args:
        state_dict: Parameters in this project's form.
        model: Config of the model, which is built without memory for its parameters.

    Raises:
        ValueError: If they differ; the message names what.
    """
    with torch.device('meta'), DefaultScope.overwrite_default_scope('mmseg'):
        wanted = MODELS.build(model).state_dict()
    problems = misfit(state_dict, wanted)
    if problems:
        raise ValueError(f'the parameters do not fit the model: {problems}')
