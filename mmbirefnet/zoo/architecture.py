"""Infer the architecture of a BiRefNet from its parameters."""

from collections.abc import Mapping

import torch
from mmengine.registry import DefaultScope
from torch import Tensor

from mmbirefnet.fileio.checkpoints import misfit
from mmbirefnet.registry import MODELS
from mmbirefnet.zoo.renames import Shapes, infer_backbone

MASK_WEIGHT = '.mask_weight'  # parameter of GuidedBiRefNet


def infer_model_config(state_dict: Mapping[str, Tensor]) -> dict:
    """Infer the config of a model from names and shapes of its parameters.

    Settings without parameters (drop rates, losses, side outputs that only define gradient targets) have their default.

    Args:
        state_dict: Parameters in the format of this project.

    Returns:
        The config of the model, for ``MODELS.build``.

    Raises:
        ValueError: If the backbone is unknown, or the decoder is not that of BiRefNet.
    """
    shapes = {key: tuple(value.shape) for key, value in state_dict.items() if not key.endswith(MASK_WEIGHT)}
    guided = len(shapes) < len(state_dict)
    try:
        model = _infer_model_config(shapes)
    except (IndexError, KeyError) as error:  # a parameter is missing, or has too few axes
        raise ValueError('not a complete BiRefNet: parameters are missing or have other shapes') from error
    return model | dict(type='mmbirefnet.GuidedBiRefNet') if guided else model


def _infer_model_config(shapes: Shapes) -> dict:
    backbone = infer_backbone(_below(shapes, 'backbone.'))
    channels, inward_channels = _infer_decoder_channels(shapes)
    neck = dict(type='mmbirefnet.LocalizationModule')
    if 'neck.projections.0.weight' in shapes:
        neck = dict(type='mmbirefnet.PyramidLocalizationModule', out_channels=channels)
        channels = [shapes[f'neck.projections.{i}.weight'][1] for i in range(4)]
    multi_scale_input = channels[0] == 2 * backbone.channels[0]
    neck['squeeze'] = 'neck.squeeze.conv_in.weight' in shapes
    neck['aux_classifier'] = 'neck.classifier.weight' in shapes
    neck['context'] = neck['squeeze'] and shapes['neck.squeeze.conv_in.weight'][1] == sum(channels)
    if neck['squeeze']:
        neck['aspp_cfg'] = _infer_aspp(shapes, 'neck.squeeze')
    if neck['aux_classifier']:
        neck['num_classes'] = shapes['neck.classifier.weight'][0]
    block = 'decode_head.blocks.4'
    head = dict(
        type='mmbirefnet.BiRefHead',
        inward_reference='decode_head.inward.conv_in.weight' in shapes,
        outward_reference=f'{block}.outward.conv.weight' in shapes,
        multi_scale_supervision=f'{block}.side.weight' in shapes,
        gradient_supervision=f'{block}.outward.gradient.weight' in shapes,
        residual=f'{block}.reconstruction.shortcut.weight' in shapes,
        aspp_cfg=_infer_aspp(shapes, f'{block}.reconstruction'),
    )
    if inward_channels is not None:
        head['inward_channels'] = inward_channels
    return dict(
        type='mmbirefnet.BiRefNet',
        backbone=backbone.config,
        backbone_channels=[c // 2 for c in channels] if multi_scale_input else channels,
        multi_scale_input=multi_scale_input,
        neck=neck,
        decode_head=head,
    )


def infer_backbone_name(state_dict: Mapping[str, Tensor]) -> str:
    """Infer the name of the backbone, as in the names of the configs, such as ``swin-l``.

    Raises:
        ValueError: If it is not a backbone of the reference implementation.
    """
    shapes = {key: tuple(value.shape) for key, value in state_dict.items() if not key.endswith(MASK_WEIGHT)}
    return infer_backbone(_below(shapes, 'backbone.')).name


def _below(shapes: Shapes, prefix: str) -> Shapes:
    return {key.removeprefix(prefix): shape for key, shape in shapes.items() if key.startswith(prefix)}


def _infer_decoder_channels(shapes: Shapes) -> tuple[list[int], list[int] | None]:
    """``in_channels`` of the head, and its ``inward_channels`` if they exist and differ from the default."""
    entrance = 'decode_head.blocks.4.reconstruction.conv_in.weight'
    for key in (*(f'decode_head.laterals.{k}.weight' for k in (2, 3, 4)), entrance):
        if key not in shapes:
            raise ValueError(f'not a complete BiRefNet: {key} is missing')
    channels = [shapes[f'decode_head.laterals.{k}.weight'][0] for k in (2, 3, 4)]
    inwards = ('decode_head.inward', *(f'decode_head.blocks.{k}.inward' for k in (1, 2, 3, 4)))
    inward = [shapes.get(f'{name}.conv_out.weight', (0,))[0] for name in inwards]
    channels.append(shapes[entrance][1] - inward[-1])
    default = [c // 8 for c in (*channels, channels[-1])]
    return channels, inward if any(inward) and inward != default else None


def _infer_aspp(shapes: Shapes, block: str) -> dict | None:
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


def check_fit(state_dict: Mapping[str, Tensor], model: dict) -> None:
    """Check that names and shapes of parameters equal those of a model.

    Args:
        state_dict: Parameters in the format of this project.
        model: Config of the model, which is built without allocating its parameters.

    Raises:
        ValueError: If they differ, with the differences in the message, or if the model cannot be built.
    """
    try:
        with torch.device('meta'), DefaultScope.overwrite_default_scope('mmseg'):
            wanted = MODELS.build(model).state_dict()
    except (ArithmeticError, RuntimeError) as error:
        raise ValueError(f'no model of these sizes can be built ({error})') from error
    problems = misfit(state_dict, wanted)
    if problems:
        raise ValueError(f'the parameters do not fit the model: {problems}')
