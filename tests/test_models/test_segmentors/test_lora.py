"""Adapters: the same model at the start, all that is trained, and the same model again when merged."""

import copy
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from small_model import build, finetune_model

from mmbirefnet.models import LoRABiRefNet
from mmbirefnet.models.segmentors.lora import (
    load_adapters,
    merge_adapters,
    read_adapters,
    split_adapters,
    write_adapters,
)

pytestmark = pytest.mark.skipif(find_spec('peft') is None, reason='needs peft')
ROOT = Path(__file__).parents[3]


@pytest.fixture(scope='module')
def config():
    return finetune_model()


@pytest.fixture(scope='module')
def models(config):
    """The plain model, and one with adapters of rank 2 that was loaded from its state dict."""
    plain = build(config)
    adapted = build(config, type='mmbirefnet.LoRABiRefNet', rank=2, alpha=6.0)
    assert adapted.load_state_dict(plain.state_dict()).missing_keys == []
    return plain, adapted


def draw_adapters(model, deviation):
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if '.lora_' in name:
            parameter.data = deviation * torch.randn(parameter.shape, generator=generator)


@torch.no_grad()
def logits(model):
    return model(torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(2)), mode='tensor')


@pytest.mark.soak
def test_starts_from_the_plain_model(models):
    plain, adapted = models
    torch.testing.assert_close(logits(adapted), logits(plain))


def test_only_adapters_are_trained(models):
    _, adapted = models
    assert all(parameter.requires_grad == ('.lora_' in name) for name, parameter in adapted.named_parameters())
    layers = {name.partition('.lora_A')[0] for name, _ in adapted.named_parameters() if '.lora_A' in name}
    stage = 'backbone.layers.0.blocks.0'
    assert {f'{stage}.attn.qkv', f'{stage}.attn.proj', f'{stage}.mlp.fc1', 'decode_head.laterals.4'} <= layers
    assert not any(layer.endswith(('merge.conv', 'conv_logits', 'side')) for layer in layers)  # without effect, or thin


def test_every_adapter_has_a_gradient(models):
    """An adapter around a layer whose kernel is read directly would have none."""
    _, adapted = models
    adapted = copy.deepcopy(adapted)
    draw_adapters(adapted, 0.1)
    adapted(torch.randn(4, 3, 64, 64), mode='tensor').square().sum().backward()
    dead = [n for n, p in adapted.named_parameters() if '.lora_' in n and (p.grad is None or not p.grad.any())]
    # Side outputs are for training alone.
    assert not [name for name in dead if 'gradient' not in name and '.side' not in name]


def test_merged_and_split(models, tmp_path):
    plain, adapted = models
    adapted = copy.deepcopy(adapted)
    draw_adapters(adapted, 0.3)
    expected = logits(adapted)
    assert (expected - logits(plain)).abs().max() > 1e-2
    state, adapters = split_adapters(adapted.state_dict())
    assert state.keys() == plain.state_dict().keys()
    assert adapted.lora_scale == 3.0

    merged = copy.deepcopy(plain)
    merged.load_state_dict(merge_adapters(state, adapters, adapted.lora_scale))
    torch.testing.assert_close(logits(merged), expected, rtol=1e-4, atol=1e-4)

    write_adapters(tmp_path / 'adapters.safetensors', adapters, adapted.lora_scale)
    read, scale = read_adapters(tmp_path / 'adapters.safetensors')
    assert scale == 3.0
    assert read.keys() == adapters.keys()
    loaded = copy.deepcopy(plain)
    load_adapters(loaded, tmp_path / 'adapters.safetensors')
    torch.testing.assert_close(logits(loaded), expected, rtol=1e-4, atol=1e-4)


def test_merging_by_hand():
    state = {'layer.weight': torch.tensor([[1.0, 2.0], [3.0, 4.0]]), 'layer.bias': torch.zeros(2)}
    adapters = {
        'layer.lora_A.weight': torch.tensor([[1.0, 10.0]]),
        'layer.lora_B.weight': torch.tensor([[1.0], [2.0]]),
    }
    merged = merge_adapters(state, adapters, 0.5)
    assert merged['layer.weight'].tolist() == [[1.5, 7.0], [4.0, 14.0]]
    assert merged['layer.bias'] is state['layer.bias']
    with pytest.raises(ValueError, match='layer.weight is missing'):
        merge_adapters({}, adapters, 0.5)


def test_initialization_leaves_the_adapters_without_effect(config):
    """Initializers of linear layers draw those of the adapters too."""
    model = build(config, type='mmbirefnet.LoRABiRefNet', rank=2)
    assert isinstance(model, LoRABiRefNet)
    model.init_weights()
    assert not any(parameter.any() for name, parameter in model.named_parameters() if '.lora_B' in name)
    assert all(parameter.any() for name, parameter in model.named_parameters() if '.lora_A' in name)


def test_files_without_adapters_are_rejected(tmp_path):
    (tmp_path / 'x.safetensors').write_bytes(b'no')
    with pytest.raises(ValueError, match='not a file of adapters'):
        read_adapters(tmp_path / 'x.safetensors')
    with pytest.raises(FileNotFoundError, match='no such file'):
        read_adapters(tmp_path / 'y.safetensors')


@pytest.mark.parametrize(
    ('key', 'value', 'scale'),
    [
        ('layer.lora_A.weight', torch.ones(2), 1.0),
        ('layer.lora_A.weight', torch.ones(3, 2), 1.0),
        ('layer.lora_B.weight', torch.tensor([[1.0], [torch.nan]]), 1.0),
        ('layer.lora_B.weight', torch.ones(2, 1, dtype=torch.int64), 1.0),
        ('other.lora_A.weight', torch.ones(1, 2), 1.0),
        ('layer.weight', torch.ones(2, 2), 1.0),
        ('layer.lora_A.weight', torch.ones(1, 2), float('nan')),
    ],
)
def test_damaged_adapters(tmp_path, key, value, scale):
    whole = {'layer.lora_A.weight': torch.ones(1, 2), 'layer.lora_B.weight': torch.ones(2, 1)}
    write_adapters(tmp_path / 'a.safetensors', whole, 1.0)
    assert read_adapters(tmp_path / 'a.safetensors')[0].keys() == whole.keys()
    write_adapters(tmp_path / 'a.safetensors', whole | {key: value}, scale)
    with pytest.raises(ValueError, match=r'a\.safetensors: damaged \('):
        read_adapters(tmp_path / 'a.safetensors')
