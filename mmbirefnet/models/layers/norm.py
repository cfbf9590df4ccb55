"""Normalization for batches that are too small for batch statistics."""

import torch.nn.functional as F
from mmengine.dist import get_world_size
from mmengine.utils.dl_utils.parrots_wrapper import _BatchNorm
from torch import Tensor, nn

from mmbirefnet.registry import MODELS


@MODELS.register_module()
class FrozenBN(nn.BatchNorm2d):
    """BatchNorm that keeps its running statistics, its scale and its shift, in training too.

    ``norm_cfg=dict(type='mmbirefnet.FrozenBN')`` is for fine-tuning a released checkpoint with few images per GPU. It
    loads and saves what ``BN`` does.

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
        """Stay in evaluation mode whatever the model's mode."""
        return super().train(False)


def norm_pooled(norm: nn.Module, x: Tensor) -> Tensor:
    """Normalize globally pooled maps ``(N, C, 1, 1)``, for which one image gives one value per channel.

    A batch of one has no variance, and torch's BatchNorm refuses it in training; the running statistics are used then,
    as in evaluation. SyncBN's batch is that of all processes; other norms do not look at the batch.
    """
    images = x.shape[0] * (get_world_size() if isinstance(norm, nn.SyncBatchNorm) else 1)
    if isinstance(norm, _BatchNorm) and norm.training and images == 1:
        return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
    return norm(x)
