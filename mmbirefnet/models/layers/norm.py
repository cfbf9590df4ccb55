"""Normalisation for batches that are too small for batch statistics."""

import torch.nn.functional as F
from mmengine.utils.dl_utils.parrots_wrapper import _BatchNorm
from torch import Tensor, nn

from mmbirefnet.registry import MODELS


@MODELS.register_module()
class FrozenBN(nn.BatchNorm2d):
    """BatchNorm that keeps its running statistics and its affine parameters, in training too.

    ``norm_cfg=dict(type='mmbirefnet.FrozenBN')`` is for fine-tuning a released checkpoint with few images per GPU.
    """

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> 'FrozenBN':
        """Stay in evaluation mode whatever the model's mode."""
        return super().train(False)

    def requires_grad_(self, requires_grad: bool = True) -> 'FrozenBN':
        """Stay frozen."""
        return super().requires_grad_(False)


def norm_pooled(norm: nn.Module, x: Tensor) -> Tensor:
    """Normalise globally pooled maps ``(N, C, 1, 1)``, for which one image gives one value per channel.

    A batch of one has no variance, and torch's BatchNorm refuses it in training; the running statistics are used then,
    as in evaluation. SyncBN sees the other GPUs' images and needs no such care; other norms do not look at the batch.
    """
    if isinstance(norm, _BatchNorm) and not isinstance(norm, nn.SyncBatchNorm) and norm.training and len(x) == 1:
        return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
    return norm(x)
