"""Estimated and available memory for training."""

from __future__ import annotations

import os
import weakref

import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch.utils._python_dispatch import TorchDispatchMode

from mmbirefnet.registry import MODELS

GIB = 2**30


def available_gib() -> float:
    """GiB that training may use: 95 % of the free memory of the GPU, or 60 % of the memory of the machine."""
    if torch.cuda.is_available():
        return 0.95 * torch.cuda.mem_get_info()[0] / GIB
    return 0.6 * os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / GIB


class _LiveBytes(TorchDispatchMode):
    """Count the bytes of tensors that were created in this mode and are alive."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes, self._known = 0, set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for value in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(value, torch.Tensor) and id(value.untyped_storage()) not in self._known:
                storage = value.untyped_storage()
                self._known.add(id(storage))
                self.bytes += storage.nbytes()
                weakref.finalize(storage, self._forget, id(storage), storage.nbytes())
        return result

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.bytes -= size


def estimate_memory(model: dict, amp: bool = False, side: int = 256) -> tuple[float, float]:
    """Memory of training with AdamW: bytes of any step, and bytes per pixel of a batch.

    The first number is four values for each trained parameter (itself, its gradient, two moments), one for each frozen
    parameter, and 1 GiB for libraries. The second number is the memory that a forward pass on one image keeps for the
    backward pass, plus a quarter for the backward pass itself.

    Args:
        model: Config of the model.
        amp: Whether it trains in bfloat16.
        side: Height and width in pixels of the image for the measurement; memory grows with its area.
    """
    model = Config(dict(model=model)).model.to_dict()
    model['backbone']['init_cfg'] = None
    with DefaultScope.overwrite_default_scope('mmseg'):
        network = MODELS.build(model).train()
    sizes = {True: 0, False: 0}
    for parameter in network.parameters():
        sizes[parameter.requires_grad] += 4 * parameter.numel()
    sample = SegDataSample(metainfo=dict(ori_shape=(side, side), img_shape=(side, side), class_label=0))
    sample.gt_sem_seg = PixelData(data=torch.zeros(1, side, side))
    with torch.random.fork_rng(devices=[]), torch.autocast('cpu', torch.bfloat16, enabled=amp), _LiveBytes() as live:
        losses = network(torch.randn(2, 3, side, side), [sample, sample], mode='loss')
    kept = live.bytes / (2 * side**2)
    del losses
    return 4 * sizes[True] + sizes[False] + GIB, 1.25 * kept
