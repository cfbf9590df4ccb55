"""Check that losses fit the output of a head."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from .base import MaskLoss

_SIDE = 32
_ONE_MAP = (
    "mmbirefnet's losses, such as dict(type='mmbirefnet.BCELoss'), or dict(type='CrossEntropyLoss', use_sigmoid=True)"
)
_CLASSES = "losses of class ids, such as dict(type='CrossEntropyLoss')"


def check_losses(losses: Iterable[nn.Module], channels: int) -> None:
    """Check that losses train a head, by calling each on a small example as the head does.

    mmseg's losses for classes accept one map without an error but have no gradient: a softmax over one channel is
    constant.

    Args:
        losses: Modules that are called as ``loss(logits, target, ignore_index=…)``.
        channels: Number of channels of the logits; with one, targets are soft masks, otherwise class ids.

    Raises:
        ValueError: If there is no loss, or if a loss is of the other kind, raises an error, or has no gradient towards
            the target.
    """
    fitting = _ONE_MAP if channels == 1 else _CLASSES
    losses = list(losses)
    if not losses:
        raise ValueError(f'loss_decode: no loss to train the head with. Fix: use {fitting}')
    for loss in losses:
        name = f'loss_decode: {type(loss).__name__}'
        if isinstance(loss, MaskLoss):
            if channels > 1:
                raise ValueError(f'{name} is a loss of one map, the head has {channels}. Fix: use {fitting}')
        elif getattr(loss, 'loss_weight', 1) and (problem := _problem(loss, channels)):
            raise ValueError(f'{name} {problem}. Fix: use {fitting}')


def _problem(loss: nn.Module, channels: int) -> str:
    """Reason why a loss cannot train logits with this number of channels; empty if it can."""
    with torch.enable_grad(), torch.device('cpu'):
        ids = (torch.arange(_SIDE * _SIDE) // 7 % max(channels, 2)).view(1, _SIDE, _SIDE)
        logits = torch.zeros(1, channels, _SIDE, _SIDE, requires_grad=True)
        try:
            value = loss(logits, ids.float() if channels == 1 else ids, ignore_index=255)
            (gradient,) = torch.autograd.grad(value, logits, allow_unused=True)
        except Exception as error:  # losses raise various errors for inputs that they do not support
            return f'does not fit a head of {channels} channels ({type(error).__name__}: {error})'
        if gradient is None or not gradient.any():
            return f'gives no gradient for a head of {channels} channels'
        if not gradient.isfinite().all():
            return 'gives a gradient that is not finite'
        wanted = 2 * ids[:, None] - 1 if channels == 1 else 2 * nn.functional.one_hot(ids, channels).movedim(-1, 1) - 1
        return 'pulls logits away from the target' if (gradient * wanted).sum() > 0 else ''
