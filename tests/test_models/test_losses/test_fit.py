"""Losses that do not fit the maps of a head are refused when it is built."""

import pytest
import torch
from torch import nn

from mmbirefnet.models import BiRefHead
from mmbirefnet.models.losses.fit import check_losses
from mmbirefnet.registry import MODELS

CHANNELS = (16, 32, 64, 128)
REFUSED_FOR_ONE_MAP = [
    (dict(type='TverskyLoss'), 'TverskyLoss gives no gradient for a head of 1 channels'),
    (dict(type='CrossEntropyLoss'), 'CrossEntropyLoss '),
    (dict(type='DiceLoss'), 'DiceLoss does not fit a head of 1 channels'),
    (dict(type='FocalLoss'), 'FocalLoss does not fit a head of 1 channels'),
    (dict(type='BoundaryLoss'), 'BoundaryLoss does not fit a head of 1 channels'),
    (dict(type='OhemCrossEntropy'), 'OhemCrossEntropy '),
    (dict(type='LovaszLoss', reduction='none'), 'LovaszLoss '),
    (dict(type='CrossEntropyLoss', use_sigmoid=True, class_weight=[1.0, 2.0, 3.0]), 'CrossEntropyLoss '),
]


def head(**options):
    return BiRefHead(CHANNELS, aspp_cfg=None, **options)


@pytest.mark.parametrize(('loss', 'message'), REFUSED_FOR_ONE_MAP)
def test_refused_for_one_map(loss, message):
    with pytest.raises(ValueError, match=rf'loss_decode: {message}[^.]*[\s\S]* Fix: use .*use_sigmoid=True'):
        head(loss_decode=[dict(type='mmbirefnet.BCELoss'), loss])


@pytest.mark.parametrize(
    'loss',
    [
        dict(type='CrossEntropyLoss', use_sigmoid=True),
        dict(type='LovaszLoss', loss_type='binary', reduction='none'),
        dict(type='TverskyLoss', loss_weight=0.0),  # switched off
    ],
)
def test_losses_of_mmseg_that_fit_one_map(loss):
    assert type(head(loss_decode=loss).loss_decode[0]).__name__ == loss['type']


def test_losses_of_classes():
    for loss in (dict(type='CrossEntropyLoss'), dict(type='DiceLoss', use_sigmoid=False)):
        head(loss_decode=loss, num_classes=3)
    with pytest.raises(ValueError, match=r'BCELoss is a loss of one map, the head has 3. Fix: .*class ids'):
        head(num_classes=3)
    with pytest.raises(ValueError, match=r'CrossEntropyLoss does not fit a head of 3 channels [\s\S]*class ids'):
        head(loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, class_weight=[1.0, 2.0]), num_classes=3)


class Reversed(nn.Module):
    """Takes the object for background."""

    def forward(self, logits, target, ignore_index=None):
        return nn.functional.binary_cross_entropy_with_logits(logits[:, 0], 1 - target)


class NeedsCuda(nn.Module):
    def forward(self, logits, target, ignore_index=None):
        raise RuntimeError('CUDA only')


def test_losses_of_others():
    with pytest.raises(ValueError, match='Reversed pulls logits away from the target'):
        check_losses([Reversed()], 1)
    with pytest.raises(ValueError, match=r'NeedsCuda does not fit .*\(RuntimeError: CUDA only\)'):
        check_losses([NeedsCuda()], 1)


def test_on_the_meta_device():
    """As checkpoints are compared with models without memory for them."""
    with torch.device('meta'):
        loss = MODELS.build(dict(type='CrossEntropyLoss', use_sigmoid=True))
        check_losses([loss], 1)


def test_a_sampler_is_refused():
    with pytest.raises(ValueError, match='BiRefHead: sampler= .* Fix: leave it out'):
        head(sampler=dict(type='OHEMPixelSampler', thresh=0.7))
    head(sampler=None)


@pytest.mark.parametrize('losses', [[], None])
def test_a_head_without_a_loss(losses):
    with pytest.raises(ValueError, match='loss_decode: no loss to train the head with. Fix'):
        head(loss_decode=losses)


@pytest.mark.parametrize('weight', [-1.0, float('nan'), float('inf'), '30'])
def test_invalid_loss_weights_are_rejected(weight):
    with pytest.raises(ValueError, match='BCELoss: loss_weight=.*, must be a number from 0 on'):
        head(loss_decode=dict(type='mmbirefnet.BCELoss', loss_weight=weight))


def test_a_loss_of_mmseg_whose_weight_is_not_finite():
    with pytest.raises(ValueError, match='CrossEntropyLoss gives a gradient that is not finite'):
        head(loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=True, loss_weight=float('nan')))


@pytest.mark.parametrize('options', [dict(threshold=5), dict(threshold=float('nan')), dict(num_classes=0)])
def test_thresholds_and_classes_out_of_range(options):
    with pytest.raises(ValueError, match='BiRefHead: num_classes=. must be 1 or more, threshold=.* a probability'):
        head(**options)
