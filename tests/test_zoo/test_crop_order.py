"""The order of the crops of the inward reference: the reference's logits, and detecting the order from weights."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from golden import GOLDEN, image, model_config, reference_state_dict
from mmengine.logging import MMLogger

from mmbirefnet.registry import MODELS
from mmbirefnet.utils import convert_birefnet_state_dict, load_birefnet_state_dict
from mmbirefnet.zoo import detect_crop_order
from mmbirefnet.zoo.convert import load_birefnet
from mmbirefnet.zoo.crop_order import GRIDS, columns_to_rows, resolve_crop_order

TRAINED = Path(__file__).parents[1] / 'data/trained_inward_kernels.npz'


@pytest.fixture(scope='module')
def random_weights() -> dict:
    return reference_state_dict()


@pytest.mark.parametrize(('seed', 'size'), [(41, (128, 160)), (42, (64, 224))])
@torch.no_grad()
def test_logits_of_columns(random_weights, seed, size):
    """Those that the reference's code of September 2024 computes from the same parameters."""
    expected = np.load(GOLDEN / 'forward_swin_t_columns.npz')[f'logits_seed{seed}_{size[0]}x{size[1]}']
    model = MODELS.build(model_config()).eval()
    model.load_state_dict(convert_birefnet_state_dict(random_weights, crop_order='columns'))
    x = image(seed, 1, *size)
    np.testing.assert_allclose(model(x, mode='tensor').numpy(), expected, rtol=0, atol=1e-4)
    model.load_state_dict(convert_birefnet_state_dict(random_weights, crop_order='rows'))
    assert np.abs(model(x, mode='tensor').numpy() - expected).max() > 0.1


def test_columns_to_rows_by_hand():
    """The channel of each color, grid row and grid column goes where ``rows`` has it."""
    grid = 4
    weight = torch.arange(3 * grid**2).float().view(1, -1, 1, 1)
    reordered = columns_to_rows(weight, grid).flatten()
    for column in range(grid):
        for row in range(grid):
            for color in range(3):
                before = (column * grid + row) * 3 + color
                after = (color * grid + row) * grid + column
                assert reordered[after] == before


def test_conversion_is_differentiable(random_weights):
    key = 'decoder.ipt_blk4.conv1.weight'
    weight = random_weights[key].clone().requires_grad_()
    for order in ('rows', 'columns', 'auto'):
        converted = convert_birefnet_state_dict(random_weights | {key: weight}, crop_order=order)
        factor = torch.randn_like(weight)
        (gradient,) = torch.autograd.grad(
            (converted['decode_head.blocks.3.inward.conv_in.weight'] * factor).sum(), weight
        )
        assert torch.equal(gradient.flatten().sort()[0], factor.flatten().sort()[0]), order
