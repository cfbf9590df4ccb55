from . import losses
from .backbones import SwinTransformer
from .decode_heads import BiRefHead
from .layers import DCNv2, FrozenBN
from .necks import LocalizationModule
from .segmentors import BiRefNet, SoftMapTTAModel

__all__ = [
    'BiRefHead',
    'BiRefNet',
    'DCNv2',
    'FrozenBN',
    'LocalizationModule',
    'SoftMapTTAModel',
    'SwinTransformer',
    'losses',
]
