"""The localization module with a pyramid behind it."""

import pytest
import torch
import torch.nn.functional as F

from mmbirefnet.models import LocalizationModule, PyramidLocalizationModule


@torch.no_grad()
@pytest.mark.parametrize('stride', [16, 8])
def test_projected_maps_of_four_strides(stride):
    """A projection of the resized maps that the plain module gives, whatever the order of the two."""
    torch.manual_seed(0)
    widths = (8, 16, 24, 32)
    neck = PyramidLocalizationModule((8, 8, 8, 8), widths, stride=stride).eval()
    plain = LocalizationModule((8, 8, 8, 8)).eval()
    parameters = neck.state_dict()
    plain.load_state_dict({key: parameters[key] for key in plain.state_dict()})
    height, width = 64 // stride, 96 // stride
    maps = [torch.randn(2, 8, height, width) for _ in range(4)]
    for i, (found, x) in enumerate(zip(neck(maps), plain(maps), strict=True)):
        size = (64 // 2 ** (i + 2), 96 // 2 ** (i + 2))
        x = F.interpolate(x, size=size, mode='bilinear', align_corners=True)
        weight, bias = parameters[f'projections.{i}.weight'], parameters[f'projections.{i}.bias']
        expected = torch.einsum('oc,nchw->nohw', weight[:, :, 0, 0], x) + bias[:, None, None]
        assert found.shape == (2, widths[i], *size)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_classifier_sees_the_maps_of_the_backbone():
    torch.manual_seed(0)
    neck = PyramidLocalizationModule((8, 8, 8, 8), (8, 8, 8, 8), aux_classifier=True, num_classes=3)
    deepest = torch.randn(2, 8, 4, 6)
    logits = neck.classify((*[torch.zeros(2, 8, 4, 6)] * 3, deepest))
    torch.testing.assert_close(logits, neck.classifier(deepest.mean((2, 3))))


def test_not_four_maps():
    with pytest.raises(ValueError, match=r'out_channels=\(8, 8, 8\) must name four maps'):
        PyramidLocalizationModule((8, 8, 8, 8), (8, 8, 8))
