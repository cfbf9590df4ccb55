from .birefnet import BiRefNet
from .lora import LoRABiRefNet
from .tta import SoftMapTTAModel

__all__ = ['BiRefNet', 'LoRABiRefNet', 'SoftMapTTAModel']
