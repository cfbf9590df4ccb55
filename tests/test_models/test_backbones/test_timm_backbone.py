"""The wrapper of timm's backbones."""

import sys

import pytest
import timm
import torch
from golden import image

from mmbirefnet.models import TIMMBackbone

PVTV2 = dict(model_name='pvt_v2_b0', depths=(1, 1, 1, 1), embed_dims=(8, 16, 40, 64))
DINOV3 = dict(model_name='vit_small_patch16_dinov3', out_indices=(0, 1, 2, 3), depth=4, embed_dim=48, num_heads=3)


def test_shapes_of_the_maps():
    maps = TIMMBackbone(**PVTV2)(image(0, 2, 64, 96))
    assert [tuple(x.shape) for x in maps] == [(2, 8, 16, 24), (2, 16, 8, 12), (2, 40, 4, 6), (2, 64, 2, 3)]
    maps = TIMMBackbone(**DINOV3)(image(0, 2, 64, 96))
    assert [tuple(x.shape) for x in maps] == [(2, 48, 4, 6)] * 4
    assert isinstance(maps, tuple)


def test_without_timm(monkeypatch):
    monkeypatch.setitem(sys.modules, 'timm', None)
    with pytest.raises(ImportError, match=r"model_name='pvt_v2_b0' needs the package timm.*: pip install timm"):
        TIMMBackbone('pvt_v2_b0')


def test_bad_options():
    with pytest.raises(ValueError, match=rf"timm {timm.__version__} has no model 'pvt_v2_b9'.*pip install -U timm"):
        TIMMBackbone('pvt_v2_b9')
    with pytest.raises(ValueError, match=r'out_indices=\(1, 2, 3\) must name four maps'):
        TIMMBackbone('pvt_v2_b0', out_indices=(1, 2, 3))


@pytest.mark.parametrize('pretrained', [True, False])
def test_pretrained_parameters_come_when_training_starts(monkeypatch, pretrained):
    asked = []

    def create(*args, pretrained, create=timm.create_model, **kwargs):
        asked.append(pretrained)
        model = create(*args, **kwargs)
        if pretrained:
            for parameter in model.parameters():
                torch.nn.init.constant_(parameter, 7)
        return model

    monkeypatch.setattr(timm, 'create_model', create)
    backbone = TIMMBackbone(**PVTV2, pretrained=pretrained, in_channels=4)
    assert asked == [False]
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    parameters = dict(backbone.named_parameters())
    backbone.init_weights()
    assert asked == [False, True][: 1 + pretrained]
    for key, value in backbone.state_dict().items():
        assert torch.equal(value, torch.full_like(value, 7) if pretrained else before[key])
    # An optimizer that was made before still has them.
    assert all(parameter is parameters[key] for key, parameter in backbone.named_parameters())


def test_frozen_backbone_has_no_gradients():
    backbone = TIMMBackbone(**DINOV3, frozen=True)
    backbone.train()
    assert not any(module.training for module in backbone.modules())
    x = image(0, 1, 64, 64).requires_grad_()
    assert not any(y.requires_grad for y in backbone(x))
    assert not any(parameter.requires_grad for parameter in backbone.parameters())


@pytest.mark.parametrize('cfg', [PVTV2, DINOV3], ids=['pvtv2', 'dinov3'])
def test_checkpointing(cfg):
    """The same gradients, from blocks that are computed twice; every parameter has one."""
    plain, checkpointed = TIMMBackbone(**cfg), TIMMBackbone(**cfg, with_cp=True)
    checkpointed.load_state_dict(plain.state_dict())
    passes = []
    gradients = []
    for backbone in (plain, checkpointed):
        runs = []
        block = next(module for name, module in backbone.named_modules() if name.endswith('blocks.0'))
        block.register_forward_pre_hook(lambda *_, runs=runs: runs.append(1))
        torch.manual_seed(0)
        sum((y * y).mean() for y in backbone(image(0, 1, 64, 64))).backward()
        passes.append(len(runs))
        gradients.append({key: parameter.grad for key, parameter in backbone.named_parameters()})
    assert passes == [1, 2]
    for key, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][key], gradient, rtol=1e-4, atol=1e-6, msg=key)
        assert gradient.abs().max() > 0, key
