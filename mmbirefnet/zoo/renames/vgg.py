"""VGG16, without and with BatchNorm (Simonyan and Zisserman, 2015).

The reference has torchvision's layers in four sequences that keep their numbers, this project mmpretrain's network,
where a convolution, its norm and its ReLU are one module.
"""

import itertools
from functools import partial

from mmbirefnet.zoo.renames.family import BackboneFamily, BackboneSpec, Shapes

CONVS = (2, 2, 3, 3, 3)  # of each stage; a pool follows
CHANNELS = (128, 256, 512, 512)  # the first stage is that of the first two pools


def _modules(batch_norm: bool) -> dict[str, str]:
    """This project's module for the number of each of torchvision's that has parameters."""
    modules = {}
    ours = theirs = 0
    for convs in CONVS:
        for _ in range(convs):
            modules[f'{theirs}'] = f'features.{ours}.conv'
            if batch_norm:
                modules[f'{theirs + 1}'] = f'features.{ours}.bn'
            ours += 1
            theirs += 2 + batch_norm
        ours += 1
        theirs += 1
    return modules


def _rename(modules: dict[str, str], key: str) -> str:
    _, number, name = key.split('.')
    return f'{modules[number]}.{name}' if number in modules else key


def _restore(modules: dict[str, str], key: str) -> str:
    module, _, name = key.rpartition('.')
    number = next(number for number, ours in modules.items() if ours == module)
    return f'conv{_stage(modules, module)}.{number}.{name}'


def _stage(modules: dict[str, str], module: str) -> int:
    """The reference's stage, counted from 1, that a module of this project belongs to."""
    index = [ours for ours in modules.values() if ours.endswith('.conv')].index(module.rpartition('.')[0] + '.conv')
    stage = sum(index >= end for end in itertools.accumulate(CONVS))
    return max(1, stage)  # the first two are one


def _infer(batch_norm: bool, shapes: Shapes) -> BackboneSpec | None:
    if 'features.0.conv.weight' not in shapes or ('features.0.bn.weight' in shapes) != batch_norm:
        return None
    norm_cfg = dict(type='BN') if batch_norm else None
    config = dict(type='mmpretrain.VGG', depth=16, norm_cfg=norm_cfg, out_indices=(1, 2, 3, 4))
    return BackboneSpec('vgg16-bn' if batch_norm else 'vgg16', config, CHANNELS)


def _family(title: str, mark: str, batch_norm: bool) -> BackboneFamily:
    modules = _modules(batch_norm)
    return BackboneFamily(
        title, mark, partial(_rename, modules), partial(_restore, modules), partial(_infer, batch_norm)
    )


VGG16 = _family('VGG16', 'conv4.28.weight', batch_norm=False)
VGG16_BN = _family('VGG16 with BatchNorm', 'conv4.40.weight', batch_norm=True)
