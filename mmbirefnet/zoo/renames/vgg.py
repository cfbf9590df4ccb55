"""VGG16, without and with BatchNorm (Simonyan and Zisserman, 2015).

The reference has torchvision's layers in four sequences that keep their numbers, this project mmpretrain's network,
where a convolution, its norm and its ReLU are one module.
"""

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


def _infer(batch_norm: bool, shapes: Shapes) -> BackboneSpec | None:
    if 'features.0.conv.weight' not in shapes or ('features.0.bn.weight' in shapes) != batch_norm:
        return None
    norm_cfg = dict(type='BN') if batch_norm else None
    config = dict(type='mmpretrain.VGG', depth=16, norm_cfg=norm_cfg, out_indices=(1, 2, 3, 4))
    return BackboneSpec('vgg16-bn' if batch_norm else 'vgg16', config, CHANNELS)


VGG16, VGG16_BN = (
    BackboneFamily(title, mark, partial(_rename, _modules(batch_norm)), partial(_infer, batch_norm))
    for title, mark, batch_norm in (
        ('VGG16', 'conv4.28.weight', False),
        ('VGG16 with BatchNorm', 'conv4.40.weight', True),
    )
)
