from .birefnet import BiRefNet, SoftMapTTAModel
from .guided import GuidedBiRefNet, GuidedDataPreProcessor
from .lora import LoRABiRefNet

__all__ = ['BiRefNet', 'GuidedBiRefNet', 'GuidedDataPreProcessor', 'LoRABiRefNet', 'SoftMapTTAModel']
