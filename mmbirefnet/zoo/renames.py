"""Backbones of the reference implementation: names of parameters there and here, and inference from shapes.

Each family has a table or function from keys of the reference (without ``bb.``) to keys of this project (without
``backbone.``), its inverse, and a function that infers the architecture from shapes.
"""

import itertools
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from typing import NamedTuple

from mmbirefnet.models.backbones.swin import ARCHITECTURES as SWIN_ARCHITECTURES
from mmbirefnet.models.backbones.swin_checkpoint import BUFFERS

MOST_BLOCKS = 64  # of a stage
Shapes = Mapping[str, tuple[int, ...]]


class BackboneSpec(NamedTuple):
    """A backbone, inferred from its parameters."""

    name: str
    """Name of the backbone, as in the names of the configs."""
    config: dict
    """Config for ``MODELS.build``."""
    channels: tuple[int, int, int, int]
    """Channels of the four maps at one scale."""


class BackboneFamily(NamedTuple):
    """A family of backbones of the reference."""

    title: str
    mark: str
    """A key of the reference that no other family has."""
    rename: Callable[[str], str | None]
    """Converts a key of the reference to one of this project; ``None`` if the parameter is dropped."""
    restore: Callable[[str], str]
    """Inverse of ``rename``."""
    infer: Callable[[Shapes], BackboneSpec | None]
    """Infers the architecture; ``None`` for parameters of other families."""


def rename_by(renames: Iterable[tuple[str, str]]) -> Callable[[str], str]:
    """Return a function that applies the patterns of a table to a key, one after another."""

    def rename(key: str) -> str:
        for pattern, name in renames:
            key = re.sub(pattern, name, key)
        return key

    return rename


def count(shapes: Shapes, prefix: str) -> int:
    """Number of modules in a list whose parameters start with ``prefix``, such as ``blocks.``."""
    return len({key.removeprefix(prefix).split('.')[0] for key in shapes if key.startswith(prefix)})


def choose(family: str, architectures: Mapping[str, dict], found: dict) -> str:
    """Name of the architecture with the given options.

    Raises:
        ValueError: If there is none.
    """
    for name, architecture in architectures.items():
        if all(architecture[option] == value for option, value in found.items()):
            return name
    raise ValueError(f'no known {family} has {found}; known are {architectures}')


# Swin Transformer (Liu et al., 2021): names of the published checkpoints on both sides.


def _rename_swin(key: str) -> str | None:
    return None if key.endswith(BUFFERS) else key


def _restore_swin(key: str) -> str:
    return key


def _infer_swin(shapes: Shapes) -> BackboneSpec | None:
    dims, *_ = shapes.get('patch_embed.proj.weight', (None,))
    pairs, *_ = shapes.get('layers.0.blocks.0.attn.relative_position_bias_table', (None,))
    if dims is None or pairs is None:
        return None
    depths = tuple(count(shapes, f'layers.{i}.blocks.') for i in range(4))
    found = dict(embed_dims=dims, depths=depths, window_size=(round(pairs**0.5) + 1) // 2)
    name = _choose_swin(found)
    arch = name if SWIN_ARCHITECTURES[name]['depths'] == depths else dict(SWIN_ARCHITECTURES[name], depths=depths)
    config = dict(type='mmbirefnet.SwinTransformer', arch=arch)
    return BackboneSpec(f'swin-{name}', config, tuple(dims * 2**i for i in range(4)))


def _choose_swin(found: dict) -> str:
    """Name of the architecture with this width and window and the closest depths.

    Other depths exist, such as 24 blocks in the third stage of FeyNobg. Blocks are pairs, without and with a shift of
    the windows, so an odd depth means that one is missing.
    """
    fitting = [
        name
        for name, known in SWIN_ARCHITECTURES.items()
        if all(known[option] == found[option] for option in ('embed_dims', 'window_size'))
    ]
    if not fitting or any(depth == 0 or depth % 2 or depth > MOST_BLOCKS for depth in found['depths']):
        return choose('Swin Transformer', SWIN_ARCHITECTURES, found)
    return min(fitting, key=lambda name: abs(sum(SWIN_ARCHITECTURES[name]['depths']) - sum(found['depths'])))


SWIN = BackboneFamily('Swin Transformer', 'patch_embed.proj.weight', _rename_swin, _restore_swin, _infer_swin)


# PVTv2 (Wang et al., 2022): names of the published checkpoints there, timm's network here.

PVTV2_ARCHITECTURES = {
    'b0': dict(channels=(32, 64, 160, 256), depths=(2, 2, 2, 2)),
    'b1': dict(channels=(64, 128, 320, 512), depths=(2, 2, 2, 2)),
    'b2': dict(channels=(64, 128, 320, 512), depths=(3, 4, 6, 3)),
    'b5': dict(channels=(64, 128, 320, 512), depths=(3, 6, 40, 3)),
}

# The reference counts stages from 1, timm from 0.
PVTV2_RENAMES = (
    (r'^patch_embed1\.', 'timm_model.patch_embed.'),
    *((rf'^patch_embed{k}\.', f'timm_model.stages_{k - 1}.downsample.') for k in (2, 3, 4)),
    *((rf'^block{k}\.', f'timm_model.stages_{k - 1}.blocks.') for k in (1, 2, 3, 4)),
    *((rf'^norm{k}\.', f'timm_model.stages_{k - 1}.norm.') for k in (1, 2, 3, 4)),
    (r'\.dwconv\.dwconv\.', '.dwconv.'),
)
PVTV2_RESTORES = (
    (r'^timm_model\.patch_embed\.', 'patch_embed1.'),
    *((rf'^timm_model\.stages_{k - 1}\.downsample\.', f'patch_embed{k}.') for k in (2, 3, 4)),
    *((rf'^timm_model\.stages_{k - 1}\.blocks\.', f'block{k}.') for k in (1, 2, 3, 4)),
    *((rf'^timm_model\.stages_{k - 1}\.norm\.', f'norm{k}.') for k in (1, 2, 3, 4)),
    (r'\.dwconv\.', '.dwconv.dwconv.'),
)


def _infer_pvtv2(shapes: Shapes) -> BackboneSpec | None:
    if 'timm_model.stages_0.blocks.0.mlp.dwconv.weight' not in shapes:
        return None
    stages = [f'timm_model.stages_{i}.' for i in range(4)]
    found = dict(
        channels=tuple(shapes.get(f'{stage}norm.weight', (0,))[0] for stage in stages),
        depths=tuple(count(shapes, f'{stage}blocks.') for stage in stages),
    )
    arch = choose('PVTv2', PVTV2_ARCHITECTURES, found)
    config = dict(type='mmbirefnet.TIMMBackbone', model_name=f'pvt_v2_{arch}')
    return BackboneSpec(f'pvtv2-{arch}', config, found['channels'])


PVTV2 = BackboneFamily(
    'PVTv2', 'patch_embed1.proj.weight', rename_by(PVTV2_RENAMES), rename_by(PVTV2_RESTORES), _infer_pvtv2
)


# VGG16 (Simonyan and Zisserman, 2015): torchvision's layers in four sequences that keep their numbers there,
# mmpretrain's network here, where a convolution, its norm and its ReLU are one module.

VGG_CONVS = (2, 2, 3, 3, 3)  # of each stage; a pool follows
VGG_CHANNELS = (128, 256, 512, 512)  # the first stage contains the first two pools


def _modules_vgg(batch_norm: bool) -> dict[str, str]:
    """Module of this project by number of the module of torchvision, for those with parameters."""
    modules = {}
    ours = theirs = 0
    for convs in VGG_CONVS:
        for _ in range(convs):
            modules[f'{theirs}'] = f'features.{ours}.conv'
            if batch_norm:
                modules[f'{theirs + 1}'] = f'features.{ours}.bn'
            ours += 1
            theirs += 2 + batch_norm
        ours += 1
        theirs += 1
    return modules


def _rename_vgg(modules: dict[str, str], key: str) -> str:
    _, number, name = key.split('.')
    return f'{modules[number]}.{name}' if number in modules else key


def _restore_vgg(modules: dict[str, str], key: str) -> str:
    module, _, name = key.rpartition('.')
    number = next(number for number, ours in modules.items() if ours == module)
    return f'conv{_stage_vgg(modules, module)}.{number}.{name}'


def _stage_vgg(modules: dict[str, str], module: str) -> int:
    """Stage of the reference, from 1, of a module of this project."""
    index = [ours for ours in modules.values() if ours.endswith('.conv')].index(module.rpartition('.')[0] + '.conv')
    stage = sum(index >= end for end in itertools.accumulate(VGG_CONVS))
    return max(1, stage)  # the first two stages are one


def _infer_vgg(batch_norm: bool, shapes: Shapes) -> BackboneSpec | None:
    if 'features.0.conv.weight' not in shapes or ('features.0.bn.weight' in shapes) != batch_norm:
        return None
    norm_cfg = dict(type='BN') if batch_norm else None
    config = dict(type='mmpretrain.VGG', depth=16, norm_cfg=norm_cfg, out_indices=(1, 2, 3, 4))
    return BackboneSpec('vgg16-bn' if batch_norm else 'vgg16', config, VGG_CHANNELS)


def _family_vgg(title: str, mark: str, batch_norm: bool) -> BackboneFamily:
    modules = _modules_vgg(batch_norm)
    return BackboneFamily(
        title, mark, partial(_rename_vgg, modules), partial(_restore_vgg, modules), partial(_infer_vgg, batch_norm)
    )


VGG16 = _family_vgg('VGG16', 'conv4.28.weight', batch_norm=False)
VGG16_BN = _family_vgg('VGG16 with BatchNorm', 'conv4.40.weight', batch_norm=True)


# ResNet-50 (He et al., 2016): torchvision's layers in four sequences there, mmseg's network here.

RESNET_ARCHITECTURES = {'r50': dict(depths=(3, 4, 6, 3), channels=(256, 512, 1024, 2048))}

# Anchored, since blocks have a conv1, conv2 and conv3, too; the new name of the stem is the old one of the first stage.
RESNET_RENAMES = (
    (r'^conv1\.4\.', 'layer1.'),
    *((rf'^conv{k}\.', f'layer{k}.') for k in (2, 3, 4)),
    (r'^conv1\.1\.', 'bn1.'),
    (r'^conv1\.0\.', 'conv1.'),
)
# The stem first, for the same reason.
RESNET_RESTORES = (
    (r'^conv1\.', 'conv1.0.'),
    (r'^bn1\.', 'conv1.1.'),
    (r'^layer1\.', 'conv1.4.'),
    *((rf'^layer{k}\.', f'conv{k}.') for k in (2, 3, 4)),
)


def _infer_resnet(shapes: Shapes) -> BackboneSpec | None:
    if 'layer1.0.conv1.weight' not in shapes:
        return None
    found = dict(
        depths=tuple(count(shapes, f'layer{i}.') for i in (1, 2, 3, 4)),
        channels=tuple(shapes.get(f'layer{i}.0.downsample.0.weight', (0,))[0] for i in (1, 2, 3, 4)),
    )
    name = choose('ResNet', RESNET_ARCHITECTURES, found)
    return BackboneSpec(name, dict(type='mmseg.ResNet', depth=50), found['channels'])


RESNET = BackboneFamily(
    'ResNet-50', 'conv1.4.0.conv1.weight', rename_by(RESNET_RENAMES), rename_by(RESNET_RESTORES), _infer_resnet
)


# DINOv3 (Siméoni et al., 2025): timm's network on both sides, one level deeper here.

# The output blocks are those of the reference.
DINOV3_ARCHITECTURES = {
    's': dict(model='small', dims=384, depth=12, gated=False, out_indices=(3, 5, 7, 11)),
    'splus': dict(model='small_plus', dims=384, depth=12, gated=True, out_indices=(3, 5, 7, 11)),
    'b': dict(model='base', dims=768, depth=12, gated=False, out_indices=(3, 5, 7, 11)),
    'l': dict(model='large', dims=1024, depth=24, gated=False, out_indices=(5, 11, 17, 23)),
    'hplus': dict(model='huge_plus', dims=1280, depth=32, gated=True, out_indices=(7, 15, 23, 31)),
    '7b': dict(model='7b', dims=4096, depth=40, gated=True, out_indices=(9, 19, 29, 39)),
}
TIMM = 'timm_model.'


def _rename_dinov3(key: str) -> str:
    return TIMM + key


def _restore_dinov3(key: str) -> str:
    return key.removeprefix(TIMM)


def _infer_dinov3(shapes: Shapes) -> BackboneSpec | None:
    if f'{TIMM}model.reg_token' not in shapes:
        return None
    dims = shapes[f'{TIMM}model.reg_token'][-1]
    found = dict(
        dims=dims,
        depth=count(shapes, f'{TIMM}model.blocks.'),
        gated=f'{TIMM}model.blocks.0.mlp.fc1_g.weight' in shapes,
    )
    arch = choose('DINOv3', DINOV3_ARCHITECTURES, found)
    config = dict(
        type='mmbirefnet.TIMMBackbone',
        model_name=f'vit_{DINOV3_ARCHITECTURES[arch]["model"]}_patch16_dinov3',
        out_indices=DINOV3_ARCHITECTURES[arch]['out_indices'],
    )
    return BackboneSpec(f'dinov3-{arch}', config, (dims,) * 4)


DINOV3 = BackboneFamily('DINOv3', 'model.reg_token', _rename_dinov3, _restore_dinov3, _infer_dinov3)


FAMILIES = (SWIN, PVTV2, VGG16, VGG16_BN, RESNET, DINOV3)
KNOWN = ', '.join(family.title for family in FAMILIES)


def find_reference_family(keys: Collection[str]) -> BackboneFamily:
    """Find the family of keys of the reference, without ``bb.``.

    Raises:
        ValueError: If there is none.
    """
    for family in FAMILIES:
        if family.mark in keys:
            return family
    raise ValueError(
        f"expected one of the reference's backbones ({KNOWN}), found keys such as "
        f'{[f"bb.{key}" for key in sorted(keys)[:3]]}. Older checkpoints of VGG16 and ResNet-50, with other '
        'strides than 4 to 32, use a different architecture and are rejected'
    )


def find_family(shapes: Shapes) -> tuple[BackboneFamily, BackboneSpec]:
    """Infer the family and the architecture of a backbone from parameters in the format of this project.

    Args:
        shapes: Shapes by name, without ``backbone.``.

    Raises:
        ValueError: If it is not a backbone of the reference implementation.
    """
    for family in FAMILIES:
        spec = family.infer(shapes)
        if spec is not None:
            return family, spec
    raise ValueError(
        f"expected the parameters of one of the reference's backbones ({KNOWN}), found "
        f'{[f"backbone.{key}" for key in sorted(shapes)[:3]]}; for any other backbone, pass its config'
    )


def infer_backbone(shapes: Shapes) -> BackboneSpec:
    """Return the architecture of :func:`find_family`."""
    return find_family(shapes)[1]
