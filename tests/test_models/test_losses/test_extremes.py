"""Losses and their gradients of degenerate masks and of logits as large as half precision has them."""

import math

import pytest
import torch

from mmbirefnet.models import losses
from mmbirefnet.registry import MODELS

SHAPE = (2, 1, 70, 66)


def one_pixel(value):
    mask = torch.full(SHAPE, 1.0 - value)
    mask[:, :, 33, 65] = value
    return mask


MASKS = dict(
    empty=torch.zeros(SHAPE),
    full=torch.ones(SHAPE),
    pixel=one_pixel(1.0),
    hole=one_pixel(0.0),
    gray=torch.full(SHAPE, 0.5),
)


@pytest.mark.parametrize('name', losses.__all__)
@pytest.mark.parametrize('mask', MASKS)
@pytest.mark.soak(keep=15)
def test_finite(name, mask):
    loss, target = MODELS.build(dict(type=f'mmbirefnet.{name}')), MASKS[mask]
    sign = 2 * (target > 0.4) - 1
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for size in (0.0, 1.0, 1e4, 65504.0, 1e30):
            if size > torch.finfo(dtype).max:
                continue
            for pattern in (sign, -sign, torch.ones(SHAPE), -torch.ones(SHAPE)):  # right, wrong, and of one sign
                logits = (size * pattern).to(dtype).requires_grad_()
                with torch.autocast('cpu', dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
                    value = loss(logits, target)
                value.backward()
                assert value.dtype == torch.float32
                assert value.isfinite(), (dtype, size)
                assert logits.grad.isfinite().all(), (dtype, size)


@pytest.mark.parametrize('logit', [math.inf, -math.inf, math.nan])
def test_logits_that_are_not_finite_are_not_hidden(logit):
    """They make the total one that ``FiniteHook`` notices."""
    logits = torch.zeros(SHAPE)
    logits[0, 0, 3, 4] = logit
    total = sum(MODELS.build(dict(type=f'mmbirefnet.{name}'))(logits, MASKS['gray']) for name in losses.__all__)
    assert not total.isfinite()
