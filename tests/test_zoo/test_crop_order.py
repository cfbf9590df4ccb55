"""The order of the crops of the inward reference: the reference's logits, and detecting the order from weights."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from golden import GOLDEN, image, model_config, reference_state_dict

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
@pytest.mark.soak(keep=1)
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


def planted(order: str, strength: float, seed: int = 0) -> dict:
    """First kernels of the inward reference whose color kernels of a crop have something in common."""
    generator = torch.Generator().manual_seed(seed)
    kernels = {}
    for key, grid in GRIDS.items():
        common = torch.randn(8, 1, grid, grid, 3, 3, generator=generator)  # color, row, column
        weight = strength * common + torch.randn(8, 3, grid, grid, 3, 3, generator=generator)
        kernels[key] = (weight if order == 'rows' else weight.permute(0, 3, 2, 1, 4, 5)).reshape(8, -1, 3, 3)
    return kernels


@pytest.mark.parametrize('order', ['rows', 'columns'])
def test_detection_of_planted_orders(order):
    assert detect_crop_order(planted(order, 0.5)).order == order
    detection = detect_crop_order(planted(order, 0))
    assert detection.order is None
    # By hand: with a common part of variance 1/4 beside 1, the correlation of the colors is 0.25 / 1.25, and
    # neighboring crops have none.
    found = detect_crop_order(planted(order, 0.5)).correlations[32]
    right, wrong = found if order == 'rows' else found[::-1]
    assert right == pytest.approx(0.2 / 3, abs=0.01)
    # Read by rows, two of three neighbors of weights by columns are colors of one crop.
    assert wrong == pytest.approx(0.2 * 2 / 3 / 3 if order == 'columns' else 0, abs=0.01)


@pytest.mark.parametrize('order', ['rows', 'columns'])
def test_detection_of_trained_orders(order):
    """A model of 32 channels, trained for 40 steps on synthetic images with crops in either order.

    The file holds one or two output channels of each kernel, as integers; with all 64 the margins are 45 for rows and
    61 for columns.
    """
    kernels = np.load(TRAINED)
    state = {key: torch.from_numpy(kernels[f'{order}/{grid}']) for key, grid in GRIDS.items()}
    detection = detect_crop_order(state)
    assert detection.order == order
    assert abs(detection.margin) > 15
    # Without its deepest grid, too.
    del state['decoder.ipt_blk5.conv1.weight']
    assert detect_crop_order(state).margin * detection.margin > 0


def test_random_weights_are_undecided(random_weights):
    assert detect_crop_order(random_weights).order is None
    margins = [detect_crop_order(planted('rows', 0, seed)).margin for seed in range(40)]
    assert np.std(margins) == pytest.approx(1, abs=0.35)  # in units of the standard error
    torch.manual_seed(0)
    fresh = {key: torch.nn.Conv2d(3 * grid**2, 64, 3).weight for key, grid in GRIDS.items()}
    assert detect_crop_order(fresh).order is None


def test_constant_and_absent_weights_are_undecided(random_weights):
    constant = {key: torch.ones(8, 3 * grid**2, 3, 3) for key, grid in GRIDS.items()}
    assert detect_crop_order(constant).order is None
    assert detect_crop_order({}).order is None
    with torch.device('meta'):
        assert detect_crop_order({key: torch.empty(8, 3 * grid**2, 3, 3) for key, grid in GRIDS.items()}).order is None


@pytest.fixture
def logged(monkeypatch) -> list:
    """Level and text of what is logged."""
    records = []
    monkeypatch.setattr(
        'mmbirefnet.zoo.crop_order.print_log',
        lambda text, _, level=logging.INFO: records.append((logging.getLevelName(level), text)),
    )
    return records


@pytest.mark.parametrize(
    ('kernels', 'expected', 'result', 'level', 'text'),
    [
        (planted('columns', 0.5), None, 'columns', 'INFO', 'a.pth: crops by columns, as the weights show'),
        (planted('columns', 0.5), 'columns', 'columns', 'INFO', 'by columns, as the weights show'),
        (planted('columns', 0.5), 'rows', 'columns', 'WARNING', 'although the catalog expects rows'),
        (planted('rows', 0), 'columns', 'columns', 'WARNING', 'by columns, as the catalog expects'),
        (planted('rows', 0), None, 'rows', 'WARNING', 'by rows, as in the current reference implementation'),
    ],
)
def test_auto_logs_its_decision_and_reason(logged, kernels, expected, result, level, text):
    assert resolve_crop_order(kernels, expected=expected, name='a.pth') == result
    ((found_level, found),) = logged
    assert found_level == level
    assert text in found
    assert 'standard errors' in found


def test_a_given_order_is_taken(logged):
    assert resolve_crop_order(planted('columns', 0.5), 'rows', 'columns', 'a.pth') == 'rows'
    assert logged == [('INFO', 'a.pth: crops by rows, as given')]
    with pytest.raises(ValueError, match="crop_order='cols', must be 'auto', 'rows' or 'columns'"):
        resolve_crop_order({}, 'cols')


def test_files_are_converted_in_the_order_of_the_catalog_or_the_weights(tmp_path, random_weights, logged):
    """Undecided weights follow the name of the file, decided ones do not."""
    scalars = {key: value.flatten()[0].clone().expand(value.shape) for key, value in random_weights.items()}
    key, ours = 'decoder.ipt_blk2.conv1.weight', 'decode_head.blocks.1.inward.conv_in.weight'
    scalars[key] = random_weights[key]
    path = tmp_path / 'BiRefNet_lite.pth'
    torch.save(scalars, path)
    loaded = load_birefnet(path)
    assert torch.equal(loaded.state_dict[ours], columns_to_rows(random_weights[key], 4))
    assert loaded.meta == dict(model_name='BiRefNet_lite', input_size=(1024, 1024), crop_order='columns')
    assert logged[-1][0] == 'WARNING'
    assert torch.equal(load_birefnet_state_dict(path, crop_order='rows')[ours], random_weights[key])
    clear = {name: value for name, value in planted('rows', 2).items() if name != 'decoder.ipt_blk5.conv1.weight'}
    clear = {name: torch.cat([value] * 8) for name, value in clear.items()}
    torch.save(scalars | clear, path)
    loaded = load_birefnet(path)
    assert loaded.meta['crop_order'] == 'rows'
    assert torch.equal(loaded.state_dict[ours], clear[key])
    assert 'although the catalog expects columns' in logged[-1][1]
