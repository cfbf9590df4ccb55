"""Normalization for batches that are too small for batch statistics."""

import torch.nn.functional as F
from mmengine.dist import get_world_size
from mmengine.utils.dl_utils.parrots_wrapper import _BatchNorm
from torch import Tensor, nn

from mmbirefnet.registry import MODELS


@MODELS.register_module()
class FrozenBN(nn.BatchNorm2d):
    """BatchNorm whose running statistics, scale and shift do not change in training.

    Use ``norm_cfg=dict(type='mmbirefnet.FrozenBN')`` to fine-tune a released checkpoint with few images per GPU. Its
    state dict is that of ``BN``.

    Args:
        num_features: Channels of the input ``(N, num_features, H, W)``.
        eps: Added to the variance.
    """

    def __init__(self, num_features: int, eps: float = 1e-5) -> None:
        super().__init__(num_features, eps)
        # Buffers, because mmcv's build_norm_layer sets requires_grad on every parameter.
        for name in ('weight', 'bias'):
            value = getattr(self, name).detach()
            delattr(self, name)
            self.register_buffer(name, value)
        self.eval()

    def train(self, mode: bool = True) -> 'FrozenBN':
        """Stay in evaluation mode, whatever the mode of the model."""
        return super().train(False)


def norm_pooled(norm: nn.Module, x: Tensor) -> Tensor:
    """Normalize globally pooled maps ``(N, C, 1, 1)``, which have one value per image and channel.

    A single image has no variance, and torch's BatchNorm rejects it in training, so its running statistics are used, as
    in evaluation. The batch of SyncBN is that of all processes. Other norms do not use the batch.
    """
    images = x.shape[0] * (get_world_size() if isinstance(norm, nn.SyncBatchNorm) else 1)
    if isinstance(norm, _BatchNorm) and norm.training and images == 1:
        return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
    return norm(x)
