from mmbirefnet.models.layers.activation_checkpointing import checkpoint_module
from mmbirefnet.models.layers.dcn.layer import DCNv2, build_conv

from .aspp import ASPP, ReconstructionBlock
from .norm import FrozenBN
from .reference import (
    InwardReference,
    OutwardReference,
    gradient_loss,
    gradient_target,
    image_to_patches,
    inward_logits,
    laplacian,
    log_odds,
)
from .resize import resize, resize_float32

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
    'resize_float32',
]
