"""Base classes of the losses for maps of one channel."""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

# sigmoid(-100) and softplus(-100) are 0 in float32: an ignored pixel counts as correctly predicted background.
IGNORED_LOGIT = -100.0


class MaskLoss(nn.Module, ABC):
    """Loss of the logits of a soft foreground map against its mask, in the form that mmseg's heads call.

    Computed in float32 at least, also under autocast. Pixels where the target is ``ignore_index`` count as background
    that was predicted correctly: they have no gradient, and means still divide by all pixels (mmseg's
    ``avg_non_ignore=False``).

    Args:
        loss_weight: Factor of the result. It may change between calls, see ``LossScheduleHook``.
        loss_name: Key of the result in the head's dict of losses. mmengine sums the keys that contain ``loss``.
            ``None`` uses the ``default_name`` of the class.

    Raises:
        ValueError: If ``loss_name`` does not contain ``loss``, or ``loss_weight`` is negative or not finite.
    """

    default_name: str

    def __init__(self, loss_weight: float = 1.0, loss_name: str | None = None) -> None:
        super().__init__()
        if not isinstance(loss_weight, Real) or not 0 <= loss_weight < math.inf:
            raise ValueError(f'{type(self).__name__}: loss_weight={loss_weight!r}, must be a number from 0 on')
        self.loss_weight = loss_weight
        self.loss_name = loss_name or self.default_name
        if 'loss' not in self.loss_name:
            raise ValueError(f"loss_name must contain 'loss' to be added to the total, got {self.loss_name!r}")

    def forward(
        self,
        logits: Tensor | Sequence[Tensor],
        target: Tensor,
        weight: Tensor | None = None,
        ignore_index: int | None = 255,
    ) -> Tensor:
        """Compute the weighted loss.

        Args:
            logits: Map ``(N, 1, H, W)`` of any floating dtype, or several maps for the same mask. Their losses are
                summed, and values that depend only on the mask are computed once.
            target: Mask ``(N, 1, H, W)`` or ``(N, H, W)``: floats in [0, 1], or integers 0 and 1, and ``ignore_index``.
            weight: Weights of the pixels, in the shape of the target; only for losses that are means over pixels.
            ignore_index: Value of ignored pixels in ``target``; ``None`` if there are none.

        Returns:
            Scalar, float32 (float64 for float64 logits).

        Raises:
            ValueError: If the shapes differ, if a loss of regions gets weights, or if integers are class ids.
        """
        maps = [logits] if isinstance(logits, Tensor) else list(logits)
        target = target if target.dim() == 4 else target.unsqueeze(1)
        for each in maps:
            if each.shape != target.shape or target.dim() != 4 or target.shape[1] != 1:
                raise ValueError(
                    f'{type(self).__name__} needs logits (N, 1, H, W) and a mask of that size, '
                    f'got {tuple(each.shape)} and {tuple(target.shape)}'
                )
        if not target.is_floating_point():
            _check_labels(target, ignore_index)
        dtype = torch.promote_types(maps[0].dtype, torch.float32)
        with torch.autocast(maps[0].device.type, enabled=False):
            maps = [each.to(dtype) for each in maps]
            if ignore_index is not None:
                ignored = target == ignore_index
                target = target.masked_fill(ignored, 0)
                maps = [each.masked_fill(ignored, IGNORED_LOGIT) for each in maps]
            target = target.to(dtype)
            shared = self.prepare(target)
            total = sum(self.reduce(each, target, shared, weight) for each in maps)
        return self.loss_weight * total

    def prepare(self, target: Tensor) -> Any:
        """Values for :meth:`compute` that depend only on the mask."""
        return None

    def reduce(self, logits: Tensor, target: Tensor, shared: Any, weight: Tensor | None) -> Tensor:
        """Scalar loss of one map; rejects pixel weights unless a subclass supports them."""
        if weight is not None:
            raise ValueError(f'{type(self).__name__} compares regions and takes no pixel weights')
        return self.compute(logits, target, shared)

    @abstractmethod
    def compute(self, logits: Tensor, target: Tensor, shared: Any) -> Tensor:
        """Loss of one map ``(N, 1, H, W)``: the formula."""

    def extra_repr(self) -> str:
        return f'loss_weight={self.loss_weight}, loss_name={self.loss_name!r}'


def _check_labels(target: Tensor, ignore_index: int | None) -> None:
    """Check that integer masks contain only 0 and 1, as in data sets of mmseg with two classes.

    Raises:
        ValueError: If a label is above 1.
    """
    labels = target if ignore_index is None else target[target != ignore_index]
    highest = int(labels.max()) if labels.numel() else 0
    if highest > 1:
        raise ValueError(
            f'the masks hold the class id {highest}, but a loss of one map takes 0 and 1. Fix: map the other classes '
            'to 0 or 1 (label_map of the data set), or use a head with several classes'
        )
    if highest == 0 and labels.numel() < target.numel():
        warnings.warn(
            f'masks of a batch hold 0 and {ignore_index} alone, and {ignore_index} is ignored: if it is the object, '
            'load the masks with mmbirefnet.LoadMask',
            stacklevel=3,
        )


class PixelLoss(MaskLoss):
    """Mean over pixels, optionally weighted; ``compute`` returns one value per pixel, ``(N, 1, H, W)``."""

    def reduce(self, logits: Tensor, target: Tensor, shared: Any, weight: Tensor | None) -> Tensor:
        per_pixel = self.compute(logits, target, shared)
        return per_pixel.mean() if weight is None else (per_pixel * weight.view_as(per_pixel)).mean()
