"""The fused model against the plain one and the reference's numbers."""

import copy
import logging

import numpy as np
import pytest
import torch
from golden import GOLDEN, image, model_config, reference_state_dict
from mmengine.logging import MMLogger
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmbirefnet.deploy import fuse
from mmbirefnet.models.layers import DCNv2
from mmbirefnet.registry import MODELS
from mmbirefnet.utils import convert_birefnet_state_dict

ARCH = dict(embed_dims=8, depths=(1, 1, 2, 1), num_heads=(1, 2, 2, 2), window_size=4)
CHANNELS = (16, 32, 64, 128)


def config(**head) -> dict:
    cfg = model_config(classifier=True, arch=ARCH, channels=CHANNELS, **head)
    cfg['neck']['aspp_cfg'] = cfg['decode_head']['aspp_cfg'] = dict(branch_channels=16)
    cfg['neck']['norm_cfg'] = head.get('norm_cfg', dict(type='BN'))
    return cfg


def trained(cfg: dict) -> nn.Module:
    """A model whose every number matters: random norms, statistics, offsets and position biases."""
    model = MODELS.build(cfg).eval()
    generator = torch.Generator().manual_seed(0)
    for name, value in model.state_dict().items():
        if not value.is_floating_point():
            continue
        noise = torch.randn(value.shape, generator=generator)
        if name.endswith('running_var'):
            value.copy_(0.5 + noise.abs())
        elif value.dim() > 1 and 'bias_table' not in name:
            value.copy_(noise / value[0].numel() ** 0.5)
        else:
            value.add_(0.3 * noise)
    return model


@torch.no_grad()
def logits(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return model(x, mode='tensor')


def test_in_place():
    model = trained(config())
    expected = logits(fuse(model), image := torch.randn(1, 3, 64, 64))
    fused = fuse(model, inplace=True)
    assert fused is model
    assert torch.equal(logits(fused, image), expected)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
@pytest.mark.parametrize('backbone', ['Swin', 'ResNet'])
def test_stored_kernels_are_those_of_autocast(dtype, backbone):
    cfg = config()
    if backbone == 'ResNet':
        cfg.update(backbone=dict(type='ResNet', depth=18, base_channels=8, norm_cfg=dict(type='BN')))
    model = trained(cfg)
    plain, stored = fuse(model), fuse(model, dtype=dtype)
    x = torch.randn(1, 3, 64, 96)
    with torch.autocast('cpu', dtype):
        assert torch.equal(logits(stored, x), logits(plain, x))
    again = fuse(plain, dtype=dtype)
    assert {each.dtype for each in again.parameters()} == {each.dtype for each in stored.parameters()}
    kernels = [name for name, each in stored.named_parameters() if each.dtype == dtype]
    assert {'decode_head.laterals.2.weight', 'neck.squeeze.aspp.conv_offsets.0.weight'} <= set(kernels)
    assert not [name for name in kernels if 'norm' in name]
    assert len(kernels) > 50


def assert_same_logits(model: nn.Module, x: torch.Tensor) -> nn.Module:
    """Compare with the fused model, and check that fusing left the plain one alone."""
    before = copy.deepcopy(model.state_dict())
    expected = logits(model, x)
    fused = fuse(model)
    assert expected.std() > 0.01
    torch.testing.assert_close(logits(fused, x), expected, rtol=0, atol=1e-4)
    assert torch.equal(logits(model, x), expected)
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    return fused


@pytest.fixture
def log(monkeypatch):
    """Warnings logged so far."""
    lines = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: lines.append(record.getMessage())
    logger = MMLogger.get_current_instance()
    monkeypatch.setattr(logger, 'handlers', [handler])
    return lines


@pytest.mark.parametrize(('seed', 'size'), [(0, (256, 256)), (1, (160, 224))])
@pytest.mark.soak(keep=1)
def test_golden_logits(seed, size):
    model = MODELS.build(model_config())
    model.load_state_dict(convert_birefnet_state_dict(reference_state_dict()), strict=True)
    expected = np.load(GOLDEN / 'forward_swin_t.npz')[f'logits_seed{seed}_{size[0]}x{size[1]}']
    np.testing.assert_allclose(logits(fuse(model), image(seed, 1, *size)).numpy(), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize('size', [(32, 32), (64, 160), (96, 32)])
@pytest.mark.soak(keep=1)
def test_same_logits_at_any_size(size, log):
    fused = assert_same_logits(trained(config()), image(0, 3, *size))
    assert not any(isinstance(module, _BatchNorm) for module in fused.modules())
    assert isinstance(fused.decode_head.conv_logits, nn.Identity)
    assert log == []


@pytest.mark.parametrize(
    'head',
    [
        dict(residual=True),
        dict(out_channels=2, num_classes=2, loss_decode=dict(type='CrossEntropyLoss')),
        dict(inward_reference=False),
        dict(outward_reference=False),
        dict(norm_cfg=dict(type='SyncBN')),
        dict(norm_cfg=dict(type='mmbirefnet.FrozenBN')),
    ],
    ids=str,
)
@pytest.mark.soak(keep=2)
def test_same_logits_of_other_heads(head, log):
    fused = assert_same_logits(trained(config(**head)), image(0, 2, 64, 32))
    assert not any(isinstance(module, _BatchNorm) for module in fused.modules())
    assert log == []


def test_training_layers_are_dropped():
    fused = fuse(MODELS.build(config()))
    names = [name for name, _ in fused.named_parameters()]
    assert not [name for name in names if 'side' in name or 'gradient' in name or 'classifier' in name]


def test_deformable_branches_of_one_size_share_their_offsets():
    aspp = fuse(MODELS.build(config())).neck.squeeze.aspp
    calls = []
    for module in aspp.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda conv, _, out: calls.append((conv.kernel_size[0], out.shape[1])))
    aspp(torch.randn(1, 64, 8, 8))
    # Of two 1x1 branches at once, then of the 3x3 and the 7x7 one; the pooled branch's convolution.
    assert sorted(calls) == [(1, 6), (1, 16), (3, 27), (7, 147)]
    assert sum(isinstance(module, DCNv2) for module in aspp.modules()) == 4


def test_other_norms_stay_plain_and_are_named(log):
    model = trained(config(norm_cfg=dict(type='GN', num_groups=1)))
    fused = assert_same_logits(model, image(0, 2, 64, 64))
    assert sum(isinstance(module, nn.GroupNorm) for module in fused.modules()) == 43
    assert log == ['fuse: not fused: neck.squeeze.conv_in and 42 more: GroupNorm depends on the map']


def test_other_convolutions_stay_plain_and_are_named(log):
    cfg = config()
    cfg['neck']['aspp_cfg'] = dict(branch_channels=16, conv_cfg=dict(type='ConvWS'))
    assert_same_logits(trained(cfg), image(0, 2, 64, 64))
    (line,) = log
    assert line.startswith('fuse: not fused: neck.squeeze.aspp.branches.0.conv and 3 more: ConvWS2d')


def test_another_backbone_stays_plain_and_is_named(log):
    cfg = config()
    cfg.update(backbone=dict(type='ResNet', depth=18, base_channels=8, norm_cfg=dict(type='BN')))
    fused = assert_same_logits(trained(cfg), image(0, 2, 64, 64))
    assert isinstance(fused.backbone.bn1, nn.BatchNorm2d)
    assert log == ["fuse: not fused: backbone: ResNet is not mmbirefnet's SwinTransformer"]


def test_fused_model_cannot_train():
    fused = fuse(MODELS.build(config()))
    with pytest.raises(RuntimeError, match='fused BiRefNet has no norms left to train'):
        fused.train()
    assert not fused.training
    assert not fused.eval().training
    with pytest.raises(RuntimeError, match='no side outputs for a loss'):
        fused(image(0, 1, 32, 32), [], mode='loss')
    x = image(0, 1, 32, 32)
    assert torch.equal(logits(fuse(fused), x), logits(fused, x))


def test_only_birefnet_can_be_fused():
    with pytest.raises(TypeError, match='expected a mmbirefnet.BiRefNet, got Conv2d'):
        fuse(nn.Conv2d(1, 1, 1))
