from .swin import SwinTransformer
from .timm_backbone import TIMMBackbone

__all__ = ['SwinTransformer', 'TIMMBackbone']
