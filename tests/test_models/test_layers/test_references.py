"""Inward and outward reference."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

from mmbirefnet.models.layers import (
    InwardReference,
    OutwardReference,
    gradient_loss,
    gradient_target,
    image_to_patches,
    inward_logits,
    laplacian,
)


def image(height, width, n=2, channels=3, seed=0) -> Tensor:
    return torch.randn(n, channels, height, width, generator=torch.Generator().manual_seed(seed))


def test_patches_by_hand():
    pixels = torch.tensor([[[[0, 1, 2, 3], [4, 5, 6, 7]], [[10, 11, 12, 13], [14, 15, 16, 17]]]])
    # Channels first, then rows of the grid, then its columns; each patch is 1 x 2.
    expected = [[0, 1], [2, 3], [4, 5], [6, 7], [10, 11], [12, 13], [14, 15], [16, 17]]
    assert image_to_patches(pixels, 2).tolist() == [[[patch] for patch in expected]]


def test_patches_lose_no_pixel():
    x = image(24, 40).numpy()
    patches = image_to_patches(torch.from_numpy(x), 8).numpy()
    assert patches.shape == (2, 3 * 64, 3, 5)
    for channel in range(3):
        for row in range(8):
            for column in range(8):
                expected = x[:, channel, 3 * row : 3 * row + 3, 5 * column : 5 * column + 5]
                assert np.array_equal(patches[:, 64 * channel + 8 * row + column], expected)


@pytest.mark.parametrize('size', [(33, 32), (32, 33)])
def test_patches_of_uneven_images(size):
    with pytest.raises(ValueError, match=rf'{size[0]}x{size[1]} pixels cannot be cut into 4x4.*multiples'):
        image_to_patches(image(*size), 4)


@pytest.mark.parametrize('size', [(4, 6), (5, 5)])
def test_inward_reference(size):
    reference = InwardReference(4, 5, channels=6)
    x = image(16, 24)
    conv_in, conv_out = reference.conv_in, reference.conv_out
    patches = F.interpolate(image_to_patches(x, 4), size=size, mode='bilinear', align_corners=True)
    expected = F.conv2d(patches, conv_in.weight, conv_in.bias, padding=1)
    expected = F.conv2d(expected, conv_out.weight, conv_out.bias, padding=1)
    torch.testing.assert_close(reference(x, size), expected)


@pytest.mark.parametrize('bias', [True, False])
@pytest.mark.parametrize('size', [(3, 3), (3, 9), (12, 7)])
def test_inward_logits_are_the_two_convolutions_and_the_classifier(size, bias):
    """Inside, on the ring and in the corners, and their gradients."""
    reference, classifier = InwardReference(1, 5, channels=6).double(), nn.Conv2d(5, 2, 1, bias=bias).double()
    x, weight = image(*size).double(), image(*size, channels=2, seed=1).double()
    modules = nn.ModuleList([reference, classifier])
    results = {}
    for name, logits in (
        ('one', inward_logits(reference, classifier, x)),
        ('three', classifier(reference(x, size))),
    ):
        modules.zero_grad()
        (logits * weight).sum().backward()
        results[name] = [logits, *(parameter.grad for parameter in modules.parameters())]
    for ours, expected in zip(results['one'], results['three'], strict=True):
        torch.testing.assert_close(ours, expected)


def test_laplacian():
    x = image(9, 13)
    kernel = np.ones((5, 5))
    kernel[2, 2] = -24
    expected = [
        ndimage.correlate(image_chw.numpy().mean(0).astype(np.float64), kernel / 48, mode='mirror') for image_chw in x
    ]
    found = laplacian(x)
    assert found.shape == (2, 1, 9, 13)
    np.testing.assert_allclose(found[:, 0].numpy(), expected, atol=1e-6)


def test_a_traced_laplacian_holds_no_tensor_of_the_cpu():
    """CUDA graphs cannot contain one."""
    graph = make_fx(laplacian)(torch.zeros(1, 3, 8, 8)).graph
    assert not [node for node in graph.nodes if node.op == 'get_attr']


def test_laplacian_by_hand():
    x = torch.zeros(1, 3, 9, 9)
    x[:, 1, 4, 4] = 3  # the channel mean is 1 there
    expected = np.zeros((9, 9))
    expected[2:7, 2:7] = 1 / 48
    expected[4, 4] = -24 / 48
    np.testing.assert_allclose(laplacian(x)[0, 0].numpy(), expected, atol=1e-7)
    np.testing.assert_allclose(laplacian(torch.full((1, 3, 8, 8), 7.0)).numpy(), 0, atol=1e-6)


@pytest.mark.parametrize('predict_gradient', [True, False])
def test_outward_reference(predict_gradient):
    torch.manual_seed(0)
    reference = OutwardReference(3, channels=4, predict_gradient=predict_gradient)
    reference.norm.running_mean.normal_()
    reference.norm.running_var.uniform_(0.5, 1.5)
    reference.eval()
    x = image(7, 8)
    hidden = F.conv2d(x, reference.conv.weight, reference.conv.bias, padding=1)
    mean, var = reference.norm.running_mean[:, None, None], reference.norm.running_var[:, None, None]
    hidden = ((hidden - mean) / (var + 1e-5).sqrt()).clamp(min=0)

    def pixelwise(conv):
        return torch.einsum('oc,nchw->nohw', conv.weight[..., 0, 0], hidden) + conv.bias[:, None, None]

    attention, gradient = reference(x)
    torch.testing.assert_close(attention, 1 / (1 + (-pixelwise(reference.attention)).exp()))
    assert gradient is None
    reference.train()
    reference.norm.eval()
    attention, gradient = reference(x)
    if predict_gradient:
        torch.testing.assert_close(gradient, pixelwise(reference.gradient))
    else:
        assert gradient is None
        assert reference.gradient is None


def test_gradient_target():
    x, side = image(8, 8), image(4, 4, channels=1, seed=1).requires_grad_()
    target = gradient_target(x, side)
    resized = F.interpolate(side, size=(8, 8), mode='bilinear', align_corners=True)
    torch.testing.assert_close(target, laplacian(x) * resized)
    # It is trained on: not detached from the side output.
    target.sum().backward()
    assert side.grad.abs().min() > 0


def test_gradient_loss_by_hand():
    prediction = torch.tensor([[[[2.0, -1.0]]]])
    target = torch.tensor([[[[0.0, 1.5]]]])
    values = []
    for p, t in ((2.0, 0.0), (-1.0, 1.5)):
        p, t = 1 / (1 + math.exp(-p)), 1 / (1 + math.exp(-t))
        values.append(-t * math.log(p) - (1 - t) * math.log(1 - p))
    assert gradient_loss(prediction, target).item() == pytest.approx(sum(values) / 2, rel=1e-6)


def test_gradient_loss_reaches_both_and_takes_half_precision():
    prediction = image(4, 4, channels=1).requires_grad_()
    target = image(8, 8, channels=1).requires_grad_()
    loss = gradient_loss(prediction, target)
    loss.backward()
    assert prediction.grad.abs().min() > 0
    assert target.grad.abs().min() > 0
    half = gradient_loss(prediction.bfloat16(), target.bfloat16())
    assert half.dtype == torch.float32
    assert half.item() == pytest.approx(loss.item(), rel=0.01)
