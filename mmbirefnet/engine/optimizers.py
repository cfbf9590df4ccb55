"""Mixed precision in bfloat16, and scaling of the learning rate with the batch size."""

from __future__ import annotations

import math
from contextlib import contextmanager

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.logging import print_log
from mmengine.optim import OptimWrapper

from mmbirefnet.registry import OPTIM_WRAPPERS


@OPTIM_WRAPPERS.register_module()
class BFloat16OptimWrapper(OptimWrapper):
    """Run the forward pass under bfloat16 autocast.

    bfloat16 has the range of float32, so no loss scaling is needed; mmengine's ``AmpOptimWrapper`` scales nevertheless,
    and does not support the CPU. Weights, gradients and optimizer state stay float32.

    Args:
        **kwargs: Arguments of :class:`mmengine.optim.OptimWrapper`.
    """

    @contextmanager
    def optim_context(self, model):
        # torch.compile cannot trace mmengine's autocast.
        with super().optim_context(model), torch.autocast(get_device(), torch.bfloat16):
            yield


RULES = ('linear', 'sqrt')


def scale_lr(cfg: Config, rule: str) -> None:
    """Scale the learning rate of a config with its batch size.

    ``auto_scale_lr`` of the config gives the batch size of its learning rate:

    - ``'linear'`` (Goyal et al., 2017): lr * B / base_batch_size, where B is the number of images of all processes in a
      step. mmengine's runner does this, and ignores gradient accumulation.
    - ``'sqrt'`` (the reference implementation of BiRefNet): lr * sqrt(b / base_batch_per_gpu), where b is the number of
      images of one process in an update, ``batch_size`` times the accumulated steps. The number of processes does not
      matter. This function changes the config.

    Args:
        cfg: Config, changed in place.
        rule: One of :data:`RULES`.

    Raises:
        ValueError: If ``auto_scale_lr`` of the config lacks the batch size.
    """
    key = {'linear': 'base_batch_size', 'sqrt': 'base_batch_per_gpu'}[rule]
    base = cfg.get('auto_scale_lr', {}).get(key)
    lr = cfg.optim_wrapper.get('optimizer', {}).get('lr')
    if not base or lr is None:
        missing = 'optim_wrapper.optimizer.lr' if base else f'auto_scale_lr.{key}, the batch that its lr is for'
        raise ValueError(f'scaling the learning rate by {rule!r}: the config needs {missing}')
    if rule == 'linear':
        cfg.auto_scale_lr.enable = True
        return
    cfg.auto_scale_lr.enable = False
    batch = cfg.train_dataloader.batch_size * cfg.optim_wrapper.get('accumulative_counts', 1)
    cfg.optim_wrapper.optimizer.lr = lr * math.sqrt(batch / base)
    print_log(
        f'lr {lr:g} is for {base} images per GPU; for {batch} it is {cfg.optim_wrapper.optimizer.lr:g} (square root)',
        logger='current',
    )
