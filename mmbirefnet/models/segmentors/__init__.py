from .birefnet import BiRefNet
from .tta import SoftMapTTAModel

__all__ = ['BiRefNet', 'SoftMapTTAModel']
