from .birefnet import BiRefNet
from .guided import GuidedBiRefNet, GuidedDataPreProcessor
from .lora import LoRABiRefNet
from .tta import SoftMapTTAModel

__all__ = ['BiRefNet', 'GuidedBiRefNet', 'GuidedDataPreProcessor', 'LoRABiRefNet', 'SoftMapTTAModel']
