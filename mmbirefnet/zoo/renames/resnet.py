"""ResNet-50 (He et al., 2016): torchvision's layers in four sequences in the reference, mmseg's network here."""

from mmbirefnet.zoo.renames.family import BackboneFamily, BackboneSpec, Shapes, choose, count, rename_by

ARCHITECTURES = {'r50': dict(depths=(3, 4, 6, 3), channels=(256, 512, 1024, 2048))}

# Anchored, since blocks have a conv1, conv2 and conv3 too; the stem's new name is the first stage's old one.
RENAMES = (
    (r'^conv1\.4\.', 'layer1.'),
    *((rf'^conv{k}\.', f'layer{k}.') for k in (2, 3, 4)),
    (r'^conv1\.1\.', 'bn1.'),
    (r'^conv1\.0\.', 'conv1.'),
)
# The stem first, for the same reason.
RESTORES = (
    (r'^conv1\.', 'conv1.0.'),
    (r'^bn1\.', 'conv1.1.'),
    (r'^layer1\.', 'conv1.4.'),
    *((rf'^layer{k}\.', f'conv{k}.') for k in (2, 3, 4)),
)


def _infer(shapes: Shapes) -> BackboneSpec | None:
    if 'layer1.0.conv1.weight' not in shapes:
        return None
    found = dict(
        depths=tuple(count(shapes, f'layer{i}.') for i in (1, 2, 3, 4)),
        channels=tuple(shapes.get(f'layer{i}.0.downsample.0.weight', (0,))[0] for i in (1, 2, 3, 4)),
    )
    name = choose('ResNet', ARCHITECTURES, found)
    return BackboneSpec(name, dict(type='mmseg.ResNet', depth=50), found['channels'])


RESNET = BackboneFamily('ResNet-50', 'conv1.4.0.conv1.weight', rename_by(RENAMES), rename_by(RESTORES), _infer)
