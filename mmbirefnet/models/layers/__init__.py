from mmbirefnet.models.layers.activation_checkpointing import checkpoint_module
from mmbirefnet.models.layers.dcn.layer import DCNv2

from .aspp import ASPP
from .conv import build_conv
from .inward_reference import InwardReference, image_to_patches, inward_logits
from .norm import FrozenBN
from .outward_reference import OutwardReference, gradient_loss, gradient_target, laplacian, log_odds
from .reconstruction import ReconstructionBlock
from .resize import resize

__all__ = [
    'ASPP',
    'DCNv2',
    'FrozenBN',
    'InwardReference',
    'OutwardReference',
    'ReconstructionBlock',
    'build_conv',
    'checkpoint_module',
    'gradient_loss',
    'gradient_target',
    'image_to_patches',
    'inward_logits',
    'laplacian',
    'log_odds',
    'resize',
]
