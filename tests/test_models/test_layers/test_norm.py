"""Norms for small batches."""

import pytest
import torch
from mmcv.cnn import build_norm_layer
from torch import nn

from mmbirefnet.models.layers import norm as norm_module
from mmbirefnet.models.layers.norm import FrozenBN, norm_pooled


def maps(n, size=1) -> torch.Tensor:
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(n))


def with_statistics(norm: nn.Module) -> nn.Module:
    norm.running_mean.copy_(torch.tensor([1.0, -2.0, 0.5]))
    norm.running_var.copy_(torch.tensor([4.0, 0.25, 1.0]))
    norm.weight.data.copy_(torch.tensor([2.0, 1.0, -1.0]))
    norm.bias.data.copy_(torch.tensor([0.0, 0.1, 0.2]))
    return norm


def by_statistics(x: torch.Tensor) -> torch.Tensor:
    """What ``with_statistics`` computes, channel by channel."""
    channels = [2 * (x[:, 0] - 1) / 2, (x[:, 1] + 2) / 0.5 + 0.1, -(x[:, 2] - 0.5) + 0.2]
    return torch.stack(channels, 1)


def test_pooled_maps_of_one_image_use_running_statistics():
    norm = with_statistics(nn.BatchNorm2d(3)).train()
    x = maps(1).requires_grad_()
    with pytest.raises(ValueError, match='more than 1 value per channel'):
        norm(x)
    y = norm_pooled(norm, x)
    torch.testing.assert_close(y, by_statistics(x), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(norm.running_mean, torch.tensor([1.0, -2.0, 0.5]))
    y.sum().backward()
    assert norm.weight.grad.any()
    assert x.grad.any()


def test_pooled_maps_of_several_images_use_their_own_statistics():
    norm = with_statistics(nn.BatchNorm2d(3)).train()
    x = maps(4)
    y = norm_pooled(norm, x)
    torch.testing.assert_close(y.mean((0, 2, 3)), norm.bias.detach())
    assert not torch.equal(norm.running_mean, torch.tensor([1.0, -2.0, 0.5]))


@pytest.mark.parametrize(('processes', 'statistics'), [(1, 'running'), (2, 'batch')])
def test_pooled_sync_bn_counts_the_images_of_all_processes(monkeypatch, processes, statistics):
    monkeypatch.setattr(norm_module, 'get_world_size', lambda: processes)
    norm = with_statistics(nn.SyncBatchNorm(3)).train()
    norm.forward = lambda x: 'batch'
    y = norm_pooled(norm, maps(1))
    if statistics == 'batch':
        assert y == 'batch'
    else:
        torch.testing.assert_close(y, by_statistics(maps(1)), rtol=1e-4, atol=1e-4)


def test_frozen_bn():
    norm = with_statistics(build_norm_layer(dict(type='mmbirefnet.FrozenBN'), 3)[1])
    assert isinstance(norm, FrozenBN)
    before = {name: value.clone() for name, value in norm.state_dict().items()}
    model = nn.Sequential(nn.Conv2d(3, 3, 1), norm).train().requires_grad_()
    x = maps(2, size=4)
    torch.testing.assert_close(norm(x), by_statistics(x), rtol=1e-4, atol=1e-4)
    model(x).square().sum().backward()
    assert model[0].weight.grad.any()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.0, weight_decay=0.1)
    optimizer.step()
    for name, value in norm.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert {name for name, _ in model.named_parameters()} == {'0.weight', '0.bias'}


def test_frozen_bn_and_bn_exchange_parameters():
    norm = with_statistics(nn.BatchNorm2d(3))
    frozen = FrozenBN(3)
    frozen.load_state_dict(norm.state_dict(), strict=True)
    x = maps(2, size=4)
    torch.testing.assert_close(frozen(x), norm.eval()(x))
    nn.BatchNorm2d(3).load_state_dict(frozen.state_dict(), strict=True)
