"""The whole model in 16 bits: under autocast and with its parameters cast, trained and fused."""

import copy
from contextlib import nullcontext

import pytest
import torch
from golden import image, model_config
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch import nn

from mmbirefnet.deploy import fuse
from mmbirefnet.registry import MODELS

ARCH = dict(embed_dims=8, depths=(2, 1, 1, 1), num_heads=(1, 2, 2, 2), window_size=4)
needs_float16 = pytest.mark.skipif(torch.__version__ < '2.3', reason='no float16 autocast on the CPU before torch 2.3')
DTYPES = [torch.bfloat16, pytest.param(torch.float16, marks=needs_float16)]


def build(**norm_cfg) -> nn.Module:
    torch.manual_seed(0)
    aspp_cfg = dict(branch_channels=16, dropout_ratio=0.0)
    cfg = model_config(arch=ARCH, channels=(16, 32, 64, 128), aspp_cfg=aspp_cfg, norm_cfg=norm_cfg)
    cfg['neck'].update(aspp_cfg=aspp_cfg, norm_cfg=norm_cfg)
    cfg['backbone']['drop_path_rate'] = 0.0
    model = MODELS.build(cfg)
    for name, parameter in model.named_parameters():
        if 'conv_offset.weight' in name:
            nn.init.normal_(parameter, std=0.1)
        elif 'conv_logits' in name and parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.3)
    return model


def assert_close(ours: torch.Tensor, expected: torch.Tensor, dtype: torch.dtype) -> None:
    """A few of the last digits of the dtype, on the scale of the map."""
    assert expected.std() > 0.1
    error = (ours.float() - expected).square().mean().sqrt()
    assert error < 8 * torch.finfo(dtype).eps * expected.std()


@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('form', [copy.deepcopy, fuse], ids=['plain', 'fused'])
@torch.no_grad()
@pytest.mark.soak(keep=2)
def test_inference(form, dtype):
    model, x = form(build(type='BN')).eval(), image(0, 2, 64, 96)
    expected = model(x, mode='tensor')
    with torch.autocast('cpu', dtype=dtype):
        ours = model(x, mode='tensor')
    assert ours.dtype == dtype
    assert_close(ours, expected, dtype)
    model.to(dtype)
    ours = model(x.to(dtype), mode='tensor')
    assert ours.dtype == dtype
    assert_close(ours, expected, dtype)


def step(model: nn.Module, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss and all gradients."""
    model = copy.deepcopy(model).train()
    samples = [SegDataSample(gt_sem_seg=PixelData(data=mask)) for mask in image(1, 2, 64, 96)[:, :1].sigmoid()]
    with nullcontext() if dtype == torch.float32 else torch.autocast('cpu', dtype=dtype):
        losses = model(image(0, 2, 64, 96), samples, mode='loss')
    assert all(value.dtype == torch.float32 for value in losses.values())
    loss, _ = model.parse_losses(losses)
    loss.backward()
    return loss.detach(), torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.soak(keep=1)
def test_training_step(dtype):
    # Normalized by its own few pooled values a batch would magnify rounding without bound.
    model = build(type='mmbirefnet.FrozenBN')
    expected_loss, expected = step(model, torch.float32)
    loss, gradient = step(model, dtype)
    torch.testing.assert_close(loss, expected_loss, rtol=4 * torch.finfo(dtype).eps, atol=0)
    assert torch.cosine_similarity(gradient, expected, dim=0) > 0.98
