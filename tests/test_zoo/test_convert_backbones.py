"""Conversion of the reference's other backbones: the same maps as its network, computed independently."""

from pathlib import Path

import numpy as np
import pytest
import torch
from golden import GOLDEN, image, reference_state_dict
from mmengine.config import Config
from reference_network import Decoder, below, both_scales, build, draw_all

from mmbirefnet.models import SwinTransformer
from mmbirefnet.registry import MODELS
from mmbirefnet.utils import check_fit, convert_birefnet_state_dict, infer_backbone_name, infer_model_config

CONFIGS = Path(__file__).parents[2] / 'configs/birefnet'
SMALL = ('pvtv2-b0', 'vgg16', 'vgg16-bn', 'r50', 'dinov3-s', 'dinov3-splus')
LARGE = ('pvtv2-b1', 'pvtv2-b2', 'pvtv2-b5', 'dinov3-b', 'dinov3-l', 'dinov3-hplus', 'dinov3-7b')


def config(name: str) -> Config:
    return Config.fromfile(CONFIGS / f'birefnet_{name}_8xb4-500e_dis5k-1024x1024.py').model


def relative_difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    assert found.shape == expected.shape
    return ((found - expected).abs().max() / expected.abs().max()).item()


@torch.no_grad()
@pytest.mark.soak
def test_independent_network_gives_the_reference_logits():
    """With Swin-T, of which there are the reference's own numbers, its logits are those."""
    state = reference_state_dict()
    backbone = SwinTransformer('t').eval()
    parameters = below(state, 'bb.')
    backbone.load_state_dict({key: parameters[key] for key in backbone.state_dict()})
    x = image(1, 1, 160, 224)
    expected = np.load(GOLDEN / 'forward_swin_t.npz')['logits_seed1_160x224']
    logits = Decoder(state)(both_scales(backbone, x), x)
    np.testing.assert_allclose(logits.numpy(), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize('name', SMALL)
@torch.no_grad()
@pytest.mark.soak(keep=1)
def test_same_maps(name):
    shapes, load = build(name)
    state = draw_all({key: value for key, value in shapes.items() if not key.startswith('cls_head')})
    x = image(0, 1, 96, 128)
    maps = both_scales(load(below(state, 'bb.')), x)
    logits = Decoder(state)(maps, x)

    model = MODELS.build(config(name))
    model.load_state_dict(convert_birefnet_state_dict(state), strict=True)
    model.eval()
    for found, expected in zip(model.extract_backbone_feat(x), maps, strict=True):
        assert relative_difference(found, expected) < 1e-4
    assert relative_difference(model(x, mode='tensor'), logits) < 1e-4
    # The logits do depend on the backbone.
    zeros = [torch.zeros_like(y) for y in maps]
    assert relative_difference(Decoder(state)(zeros, x), logits) > 0.05


@pytest.mark.parametrize('name', SMALL + LARGE)
@pytest.mark.soak(keep=3)
def test_every_parameter_is_converted(name):
    with torch.device('meta'):
        shapes, _ = build(name)
    theirs = {key: torch.empty(shape, device='meta') for key, (shape, _) in shapes.items()}
    ours = convert_birefnet_state_dict(theirs)
    assert sum(value.numel() for value in ours.values()) == sum(value.numel() for value in theirs.values())
    assert infer_backbone_name(ours) == name
    model = infer_model_config(ours)
    check_fit(ours, model)
    # The config of that name is the same network.
    cfg = config(name)
    cfg.neck.aux_classifier = True
    check_fit(ours, cfg)
    assert model['multi_scale_input']
    for option, value in model['backbone'].items():
        assert cfg.backbone.get(option) == value


def test_older_vgg16_and_resnet50_checkpoints_are_rejected():
    """Early checkpoints with VGG16 and ResNet-50 have other stages."""
    state = {'decoder.conv_out1.0.weight': torch.zeros(1), 'bb.conv1.0.weight': torch.zeros(1)}
    with pytest.raises(ValueError, match=r"found keys such as \['bb\.conv1\.0\.weight'\]\. Older checkpoints"):
        convert_birefnet_state_dict(state)


@pytest.mark.parametrize(('name', 'lost'), [('pvtv2-b0', 'block3.1.'), ('r50', 'conv4.2.'), ('dinov3-s', 'blocks.9.')])
def test_other_depths(name, lost):
    with torch.device('meta'):
        shapes, _ = build(name)
    state = {key: torch.empty(shape, device='meta') for key, (shape, _) in shapes.items() if lost not in key}
    with pytest.raises(ValueError, match='no known (PVTv2|ResNet|DINOv3) has .*depth'):
        infer_model_config(convert_birefnet_state_dict(state))
