"""BiRefHead with several classes."""

import math

import pytest
import torch
import torch.nn.functional as F
from mmengine.structures import PixelData
from mmseg.evaluation import IoUMetric
from mmseg.structures import SegDataSample
from test_biref_head import CHANNELS, assert_every_parameter_trains, config, image, seeded, stock_model
from torch import Tensor, nn

from mmbirefnet.deploy import fuse
from mmbirefnet.models import BiRefHead
from mmbirefnet.models.layers import log_odds, resize
from mmbirefnet.registry import MODELS

CE = dict(type='CrossEntropyLoss')
IGNORED = 255


def labels(classes: int, height=64, width=96, n=2) -> list[SegDataSample]:
    """Class indices, some of them to be ignored, of images shown at half their size."""
    generator = torch.Generator().manual_seed(3)
    samples = []
    for each in torch.randint(classes, (n, 1, height, width), generator=generator):
        each[:, :5] = IGNORED
        sample = SegDataSample(metainfo=dict(ori_shape=(2 * height, 2 * width), img_shape=(height, width)))
        sample.gt_sem_seg = PixelData(data=each)
        samples.append(sample)
    return samples


def step(model: nn.Module, samples: list[SegDataSample]) -> dict[str, Tensor]:
    losses = model.train()(image(), samples, mode='loss')
    model.parse_losses(losses)[0].backward()
    return losses


def test_log_odds_by_hand():
    # Probabilities 1/8, 4/8, 3/8 of one pixel.
    logits = torch.tensor([1.0, 4.0, 3.0]).log().view(1, 3, 1, 1) + 5
    assert log_odds(logits).item() == pytest.approx(math.log(4 / 4), abs=1e-6)  # the second against the others
    for background, odds in enumerate((7 / 1, 4 / 4, 5 / 3)):
        assert log_odds(logits, background).item() == pytest.approx(math.log(odds), abs=1e-6)
    one_map = torch.randn(2, 1, 3, 3)
    assert log_odds(one_map) is one_map


def test_log_odds_of_random_maps():
    logits = 3 * torch.randn(2, 5, 4, 6, dtype=torch.float64)
    p = logits.softmax(1)
    torch.testing.assert_close(log_odds(logits), p.amax(1, keepdim=True).logit())
    torch.testing.assert_close(log_odds(logits, 2), (1 - p[:, 2:3]).logit())


@pytest.mark.soak
def test_two_classes_train_as_one_map_does():
    """A softmax of the logits 0 and z is a sigmoid of z: losses and the other parts' gradients are the same."""
    one = seeded(MODELS.build(config('aux_classifier', loss_decode=dict(CE, use_sigmoid=True))))
    two = MODELS.build(config('aux_classifier', loss_decode=CE, num_classes=2, out_channels=2, background=0))
    state = {}
    for name, value in one.state_dict().items():
        classifier = any(part in name for part in ('conv_logits', '.side.'))
        state[name] = torch.cat([torch.zeros_like(value), value]) if classifier else value
    two.load_state_dict(state, strict=True)
    for module in two.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0
        if type(module).__name__ == 'DropPath':
            module.drop_prob = 0
    losses, expected = step(two, labels(2)), step(one, labels(2))
    assert losses.keys() == {'decode.loss_ce', 'decode.loss_gradient'}
    torch.testing.assert_close(losses['decode.loss_ce'], expected['decode.loss_ce'])
    torch.testing.assert_close(losses['decode.loss_gradient'], expected['decode.loss_gradient'])
    wanted = dict(one.named_parameters())
    for name, parameter in two.named_parameters():
        if parameter.shape == wanted[name].shape:
            torch.testing.assert_close(parameter.grad, wanted[name].grad, rtol=1e-3, atol=1e-5)


def several(**head) -> nn.Module:
    """A model for five classes."""
    return seeded(MODELS.build(config('aux_classifier', **{'num_classes': 5, 'loss_decode': CE, **head})))


@pytest.mark.parametrize('background', [None, 0])
def test_every_parameter_trains(background):
    model = several(background=background)
    losses = step(model, labels(5))
    assert losses.keys() == {'decode.loss_ce', 'decode.loss_gradient'}
    assert losses['decode.loss_gradient'] > 0
    assert_every_parameter_trains(model)


def test_loss_is_summed_over_the_four_maps():
    model = several(gradient_supervision=False).train()
    samples = labels(5)
    maps = model.decode_head(model.extract_feat(image()))
    target = torch.stack([sample.gt_sem_seg.data for sample in samples]).squeeze(1)
    expected = sum(
        F.cross_entropy(resize(each, (64, 96)), target, ignore_index=IGNORED, reduction='sum') / target.numel()
        for each in (*maps.side_logits, maps.logits)
    )
    torch.testing.assert_close(model.decode_head.loss_by_feat(maps, samples)['loss_ce'], expected)


def test_gradient_supervision_trains_the_classes_sides():
    model = several(loss_decode=dict(CE, loss_weight=0.0))
    step(model, labels(5))
    for k in '432':
        assert model.decode_head.blocks[k].side.weight.grad.any()
        assert model.decode_head.blocks[k].outward.gradient.weight.grad.any()


def test_prediction_is_that_of_mmseg():
    """The most probable class at the photograph's size, which IoUMetric scores."""
    model = several().eval()
    with torch.no_grad():
        samples = model(image(), labels(5), mode='predict')
        expected = resize(model(image(), mode='tensor'), (128, 192))
    metric = IoUMetric(iou_metrics=['mIoU'])
    metric.dataset_meta = dict(classes=list('abcde'))
    truths = []
    for sample, logits in zip(samples, expected, strict=True):
        torch.testing.assert_close(sample.seg_logits.data, logits)
        assert torch.equal(sample.pred_sem_seg.data[0], logits.argmax(0))
        assert len(sample.pred_sem_seg.data.unique()) > 2
        # Half of the image annotated as predicted, half as the next class.
        truth = sample.pred_sem_seg.data.clone()
        truth[..., 96:] = (truth[..., 96:] + 1) % 5
        truths.append(truth)
        sample.gt_sem_seg = PixelData(data=truth)
    metric.process({}, [sample.to_dict() for sample in samples])
    assert metric.evaluate(2)['aAcc'] == pytest.approx(50)


def test_trains_in_a_stock_segmentor():
    model = stock_model(gradient_supervision=False, num_classes=5, loss_decode=CE)
    assert step(model, labels(5)).keys() == {'decode.loss_ce'}
    assert_every_parameter_trains(model)


def test_fused_model_has_the_same_logits():
    model = several().eval()
    with torch.no_grad():
        torch.testing.assert_close(
            fuse(model)(image(), mode='tensor'), model(image(), mode='tensor'), rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(num_classes=5), r'BCELoss is a loss of one map, the head has 5\. Fix: use .*CrossEntropyLoss'),
        (dict(num_classes=5, out_channels=1, loss_decode=CE), 'num_classes=5 needs out_channels=5 or None, not 1'),
        (dict(num_classes=5, background=5, loss_decode=CE), 'background=5 is not an index of num_classes=5'),
    ],
)
def test_options_that_do_not_go_together(options, message):
    with pytest.raises(ValueError, match=message):
        BiRefHead(CHANNELS, aspp_cfg=None, **options)
