import mmbirefnet.registry  # noqa: F401  checks the packages before they are imported

from . import losses
from .backbones import SwinTransformer, TIMMBackbone
from .decode_heads import BiRefHead, Features
from .layers import DCNv2, FrozenBN
from .necks import LocalizationModule, PyramidLocalizationModule
from .segmentors import BiRefNet, GuidedBiRefNet, GuidedDataPreProcessor, LoRABiRefNet, SoftMapTTAModel

__all__ = [
    'BiRefHead',
    'BiRefNet',
    'DCNv2',
    'Features',
    'FrozenBN',
    'GuidedBiRefNet',
    'GuidedDataPreProcessor',
    'LoRABiRefNet',
    'LocalizationModule',
    'PyramidLocalizationModule',
    'SoftMapTTAModel',
    'SwinTransformer',
    'TIMMBackbone',
    'losses',
]
