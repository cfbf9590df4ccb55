"""LocalizationModule: context, squeeze and the auxiliary classifier."""

import pytest
import torch
import torch.nn.functional as F
from mmengine.structures import BaseDataElement
from torch import nn

from mmbirefnet.models import LocalizationModule

CHANNELS = (2, 3, 4, 5)


def features(n=2) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(n, c, s, s + 2, generator=generator) for c, s in zip(CHANNELS, (32, 16, 8, 4)))


def module(**options) -> LocalizationModule:
    torch.manual_seed(0)
    return LocalizationModule(CHANNELS, **options).eval()


def record_squeeze(neck: LocalizationModule) -> list:
    inputs = []
    neck.squeeze.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    return inputs


def test_context_puts_the_shallow_maps_before_the_deepest():
    neck = module()
    inputs = record_squeeze(neck)
    x = features()
    with torch.no_grad():
        y = neck(x)
        shallow = [F.interpolate(each, size=(4, 6), mode='bilinear', align_corners=True) for each in x[:3]]
        assert torch.equal(inputs[0], torch.cat([*shallow, x[3]], 1))
        assert torch.equal(y[3], neck.squeeze(inputs[0]))
    assert y[3].shape == x[3].shape
    assert all(mine is theirs for mine, theirs in zip(y[:3], x[:3]))


def test_without_context():
    neck = module(context=False)
    inputs = record_squeeze(neck)
    x = features()
    assert neck(x)[3].shape == x[3].shape
    assert inputs[0] is x[3]


def test_without_squeeze():
    x = features()
    neck = module(context=False, squeeze=False)
    assert all(mine is theirs for mine, theirs in zip(neck(x), x))
    assert not list(neck.parameters())
    with pytest.raises(ValueError, match='context=True needs squeeze=True'):
        module(squeeze=False)


def samples(*labels) -> list[BaseDataElement]:
    return [BaseDataElement(metainfo=dict(class_label=label)) for label in labels]


def test_classifier_by_hand():
    neck = module(aux_classifier=True, num_classes=3)
    weight, bias = neck.classifier.weight.detach().numpy(), neck.classifier.bias.detach().numpy()
    x = features()
    logits = x[3].numpy().mean((2, 3)) @ weight.T + bias
    torch.testing.assert_close(neck.classify(x), torch.from_numpy(logits))
    expected = -F.log_softmax(torch.from_numpy(logits), 1)
    loss = neck.loss(x, samples(2, 0))['loss_cls'].item()
    assert loss == pytest.approx(5 * (expected[0, 2] + expected[1, 0]).item() / 2, rel=1e-5)
    # An unknown class counts for nothing, also not in the mean.
    loss = neck.loss(x, samples(-1, 1))['loss_cls'].item()
    assert loss == pytest.approx(5 * expected[1, 1].item(), rel=1e-5)
    loss = neck.loss(x, samples(-1, -1))['loss_cls']
    assert loss.item() == 0
    loss.backward()
    assert not neck.classifier.weight.grad.any()


def test_weight_of_the_classification_loss():
    neck = module(aux_classifier=True, loss_cls_weight=0.5)
    one = neck.loss(features(), samples(2, 0))['loss_cls']
    neck.loss_cls_weight = 1.5
    torch.testing.assert_close(neck.loss(features(), samples(2, 0))['loss_cls'], 3 * one)
    assert neck.classifier.out_features == 219


def test_classifier_needs_labels():
    unlabelled = BaseDataElement(metainfo=dict(img_path='im/a.jpg'))
    with pytest.raises(ValueError, match=r'im/a\.jpg: the auxiliary classifier needs a class_label'):
        module(aux_classifier=True).loss(features(), [*samples(1), unlabelled])
    assert module().classifier is None


def test_every_parameter_gets_a_gradient():
    neck = module(aux_classifier=True).train()
    for each in neck.modules():
        if isinstance(each, nn.Dropout):
            each.p = 0
    x = features()
    (neck(x)[3].square().sum() + neck.loss(x, samples(1, 2))['loss_cls']).backward()
    assert [name for name, parameter in neck.named_parameters() if parameter.grad is None] == []
