"""The backbones of the reference: names of their parameters there and here, and telling one from its parameters."""

from collections.abc import Collection

from mmbirefnet.zoo.renames.dinov3 import DINOV3
from mmbirefnet.zoo.renames.family import BackboneFamily, BackboneSpec, Shapes
from mmbirefnet.zoo.renames.pvtv2 import PVTV2
from mmbirefnet.zoo.renames.resnet import RESNET
from mmbirefnet.zoo.renames.swin import SWIN
from mmbirefnet.zoo.renames.vgg import VGG16, VGG16_BN

FAMILIES = (SWIN, PVTV2, VGG16, VGG16_BN, RESNET, DINOV3)
KNOWN = ', '.join(family.title for family in FAMILIES)


def find_reference_family(keys: Collection[str]) -> BackboneFamily:
    """The family that keys of the reference, without ``bb.``, belong to.

    Raises:
        ValueError: If it is none of them.
    """
    for family in FAMILIES:
        if family.mark in keys:
            return family
    raise ValueError(
        f"expected one of the reference's backbones ({KNOWN}), found keys such as "
        f'{[f"bb.{key}" for key in sorted(keys)[:3]]}. VGG16 and ResNet-50 of before they got strides 4 to 32 are '
        'other networks, which nothing here computes'
    )


def find_family(shapes: Shapes) -> tuple[BackboneFamily, BackboneSpec]:
    """The family and the architecture of a backbone, from its parameters in this project's form.

    Args:
        shapes: Shapes by name, without ``backbone.``.

    Raises:
        ValueError: If it is none of the reference's.
    """
    for family in FAMILIES:
        spec = family.infer(shapes)
        if spec is not None:
            return family, spec
    raise ValueError(
        f"expected the parameters of one of the reference's backbones ({KNOWN}), found "
        f'{[f"backbone.{key}" for key in sorted(shapes)[:3]]}; any other has to be given by its config'
    )


def infer_backbone(shapes: Shapes) -> BackboneSpec:
    """The architecture of :func:`find_family`."""
    return find_family(shapes)[1]


__all__ = ['FAMILIES', 'BackboneFamily', 'BackboneSpec', 'find_family', 'find_reference_family', 'infer_backbone']
