"""The losses against the reference implementation's figures, values worked out by hand, and their limits."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.structures import PixelData
from mmseg.registry import MODELS as MMSEG_MODELS
from mmseg.registry import TRANSFORMS as MMSEG_TRANSFORMS
from mmseg.structures import SegDataSample

from mmbirefnet.models import losses
from mmbirefnet.registry import MODELS

DATA = Path(__file__).parents[2] / 'data' / 'losses.npz'
GOLDEN_NAMES = {
    'bce': 'BCELoss',
    'iou': 'IoULoss',
    'ssim': 'SSIMLoss',
    'mae': 'MAELoss',
    'mse': 'MSELoss',
    'reg': 'ThresholdRegularizationLoss',
    'cnt': 'ContourLoss',
    'structure': 'StructureLoss',
}
NINE = losses.__all__
PIXEL_LOSSES = ['BCELoss', 'MAELoss', 'MSELoss', 'ThresholdRegularizationLoss']


def build(name, **kwargs):
    return MODELS.build(dict(type=f'mmbirefnet.{name}', **kwargs))


@pytest.fixture(scope='module')
def golden():
    return np.load(DATA)


@pytest.fixture(scope='module')
def maps(golden):
    """Logits, hard mask and soft mask that the figures belong to."""
    shape = (2, 1, 96, 128)
    generator = np.random.Generator(np.random.PCG64(5))
    logits, soft = generator.standard_normal(shape), generator.uniform(size=shape)
    hard = np.unpackbits(golden['mask_bits']).reshape(shape)
    return {
        name: torch.from_numpy(a.astype(np.float32)) for name, a in dict(logits=logits, hard=hard, soft=soft).items()
    }


def value_and_gradient(loss, logits, target, **kwargs):
    logits = logits.detach().clone().requires_grad_()
    value = loss(logits, target, **kwargs)
    value.backward()
    return value.detach(), logits.grad


@pytest.mark.parametrize('mask', ['hard', 'soft'])
@pytest.mark.parametrize('key', GOLDEN_NAMES)
def test_golden(golden, maps, key, mask):
    value, gradient = value_and_gradient(build(GOLDEN_NAMES[key]), maps['logits'], maps[mask])
    assert value.item() == pytest.approx(golden[f'{mask}/{key}'].item(), rel=1e-5)
    expected = golden[f'{mask}/{key}/grad']
    assert np.abs(gradient.flatten()[::13].numpy() - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize('size', [(128, 192), (100, 70), (64, 64), (30, 200)])
def test_patch_iou_is_the_sum_over_windows(size):
    torch.manual_seed(0)
    logits, target = torch.randn(2, 1, *size), torch.rand(2, 1, *size)
    expected = 0.0
    for n in range(2):
        p, g = logits[n, 0].double().sigmoid(), target[n, 0].double()
        for top in range(0, size[0], 64):
            for left in range(0, size[1], 64):
                a, b = p[top : top + 64, left : left + 64], g[top : top + 64, left : left + 64]
                expected += 1 - (a * b).sum().item() / (a + b - a * b).sum().item()
    assert build('PatchIoULoss')(logits, target).item() == pytest.approx(expected, rel=1e-5)


BY_HAND = {  # p = (3/4, 1/2), g = (1, 0), one row
    'BCELoss': (math.log(4 / 3) + math.log(2)) / 2,
    'MAELoss': (1 / 4 + 1 / 2) / 2,
    'MSELoss': (1 / 16 + 1 / 4) / 2,
    'IoULoss': 1 - (3 / 4) / (5 / 4 + 1 - 3 / 4),
    'PatchIoULoss': 1 / 2,
    'ThresholdRegularizationLoss': (2 * 3 / 16 + 2 / 4) / 2,
}


@pytest.mark.parametrize('name', BY_HAND)
def test_by_hand(name):
    logits, target = torch.tensor([math.log(3), 0.0]).view(1, 1, 1, 2), torch.tensor([1.0, 0.0]).view(1, 1, 1, 2)
    assert build(name)(logits, target).item() == pytest.approx(BY_HAND[name], rel=1e-6)
    assert build(name, loss_weight=3.0)(logits, target).item() == pytest.approx(3 * BY_HAND[name], rel=1e-6)


@pytest.mark.parametrize('name', NINE)
class TestEach:
    def test_gradient(self, name):
        torch.manual_seed(0)
        logits = torch.randn(2, 1, 9, 8, dtype=torch.float64, requires_grad=True)
        target = torch.rand(2, 1, 9, 8, dtype=torch.float64)
        assert torch.autograd.gradcheck(lambda x: build(name)(x, target), logits)

    @pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.bfloat16])
    @pytest.mark.parametrize('mask', [0.0, 1.0])
    @pytest.mark.parametrize('logit', [-100.0, 0.0, 100.0])
    def test_extremes_are_finite(self, name, logit, mask, dtype):
        logits, target = torch.full((2, 1, 70, 66), logit, dtype=dtype), torch.full((2, 1, 70, 66), mask)
        value, gradient = value_and_gradient(build(name), logits, target)
        assert value.dtype == torch.float32
        assert value.isfinite()
        assert gradient.isfinite().all()

    def test_loss_of_the_ground_truth_is_smaller_than_of_noise(self, name):
        target = torch.zeros(1, 1, 70, 66)
        target[..., 20:40, 10:50] = 1
        right = build(name)(200 * target - 100, target)
        torch.manual_seed(0)
        assert right < build(name)(torch.randn(1, 1, 70, 66), target)

    def test_autocast_and_half_do_not_change_it(self, name, maps):
        logits, target = maps['logits'].bfloat16(), maps['soft']
        expected = value_and_gradient(build(name), logits.float(), target)
        with torch.autocast('cpu', dtype=torch.bfloat16):
            inside = value_and_gradient(build(name), logits.float(), target)
            value, gradient = value_and_gradient(build(name), logits, target)
        torch.testing.assert_close(inside, expected, rtol=0, atol=0)
        torch.testing.assert_close(value, expected[0], rtol=0, atol=0)
        torch.testing.assert_close(gradient, expected[1].bfloat16())

    def test_several_maps_add_up(self, name, maps):
        several = [maps['logits'], -maps['logits'], 0.5 * maps['logits']]
        loss = build(name, loss_weight=2.0)
        torch.testing.assert_close(loss(several, maps['hard']), sum(loss(each, maps['hard']) for each in several))

    def test_masks_as_mmseg_gives_them(self, name, maps):
        expected = build(name)(maps['logits'], maps['hard'])
        torch.testing.assert_close(build(name)(maps['logits'], maps['hard'].squeeze(1).long()), expected)

    def test_ignored_pixels_are_agreed_background(self, name, maps):
        ignored = torch.zeros_like(maps['hard'], dtype=torch.bool)
        ignored[..., 10:30, 20:90] = True
        target = maps['hard'].masked_fill(ignored, 255)
        value, gradient = value_and_gradient(build(name), maps['logits'], target)
        expected = build(name)(maps['logits'].masked_fill(ignored, -1000), target.masked_fill(ignored, 0))
        torch.testing.assert_close(value, expected)
        assert (gradient[ignored] == 0).all()
        assert gradient[~ignored].abs().sum() > 0
        torch.testing.assert_close(
            build(name)(maps['logits'], target // 255 * 7, ignore_index=7),
            build(name)(maps['logits'], target // 255 * 255),
        )

    def test_pixel_weights(self, name, maps):
        weight = torch.zeros(2, 96, 128)
        weight[:, :48] = 2
        loss = build(name)
        if name in PIXEL_LOSSES:
            expected = loss(maps['logits'][:, :, :48], maps['hard'][:, :, :48])
            torch.testing.assert_close(loss(maps['logits'], maps['hard'], weight=weight), expected)
        else:
            with pytest.raises(ValueError, match=f'{name} compares regions and takes no pixel weights'):
                loss(maps['logits'], maps['hard'], weight=weight)

    def test_shapes_are_checked(self, name):
        with pytest.raises(ValueError, match=r'needs logits .* got \(2, 1, 8, 8\) and \(2, 1, 8, 9\)'):
            build(name)(torch.zeros(2, 1, 8, 8), torch.zeros(2, 8, 9))
        with pytest.raises(ValueError, match='needs logits'):
            build(name)(torch.zeros(2, 2, 8, 8), torch.zeros(2, 8, 8))

    def test_trains_a_head_of_mmseg(self, name):
        torch.manual_seed(0)
        model = MMSEG_MODELS.build(
            dict(
                type='mmseg.EncoderDecoder',
                data_preprocessor=dict(type='mmseg.SegDataPreProcessor'),
                backbone=dict(type='mmseg.ResNetV1c', depth=18, base_channels=4, norm_eval=False),
                decode_head=dict(
                    type='mmseg.FCNHead',
                    in_channels=32,
                    channels=4,
                    num_convs=1,
                    num_classes=2,
                    out_channels=1,
                    loss_decode=dict(type=f'mmbirefnet.{name}', loss_weight=5.0),
                ),
                train_cfg=dict(),
                test_cfg=dict(mode='whole'),
            )
        )
        samples = [SegDataSample(gt_sem_seg=PixelData(data=torch.randint(0, 2, (1, 64, 64)))) for _ in range(2)]
        parsed = model(torch.randn(2, 3, 64, 64), samples, mode='loss')
        total, log = model.parse_losses(parsed)
        key = f'decode.{build(name).loss_name}'
        assert total == log[key] > 0
        total.backward()
        assert model.decode_head.conv_seg.weight.grad.abs().sum() > 0
        assert model.backbone.stem[0].weight.grad.isfinite().all()


def test_loss_names_are_distinct_and_contain_loss():
    names = [build(name).loss_name for name in NINE]
    assert len(set(names)) == 9
    assert all(name.startswith('loss_') for name in names)
    assert build('BCELoss', loss_name='loss_side').loss_name == 'loss_side'
    with pytest.raises(ValueError, match="must contain 'loss'"):
        build('BCELoss', loss_name='bce')


def test_iou_of_empty_map_and_empty_mask():
    """As in the reference implementation, 1 per image."""
    value, gradient = value_and_gradient(build('IoULoss'), torch.full((3, 1, 8, 8), -100.0), torch.zeros(3, 1, 8, 8))
    assert value == 3
    assert (gradient == 0).all()


def test_ssim():
    target = (torch.arange(32) // 8 % 2).float().expand(1, 1, 32, 32)
    assert build('SSIMLoss')(200 * target - 100, target).item() == pytest.approx(0, abs=1e-6)
    # Under a window of one pixel the variances are 0 and only the means are compared.
    logits = torch.full((1, 1, 1, 1), math.log(3), dtype=torch.float64)
    value = build('SSIMLoss', window_size=1)(logits, torch.ones(1, 1, 1, 1))
    assert value.item() == pytest.approx((1 - (2 * 3 / 4 + 1e-4) / (9 / 16 + 1 + 1e-4)) / 2, rel=1e-6)
    with pytest.raises(ValueError, match='odd'):
        build('SSIMLoss', window_size=10)


def test_class_ids_are_refused_and_ignored_objects_are_noted():
    """Data sets of mmseg give integers, in which 255 is ignored."""
    loss, logits = losses.BCELoss(), torch.zeros(1, 1, 2, 2)
    padded = torch.tensor([[[0, 1], [255, 255]]])
    assert loss(logits, padded).item() == pytest.approx(math.log(2) / 2)  # two of four pixels
    with pytest.raises(ValueError, match='hold the class id 3, but a loss of one map takes 0 and 1. Fix: '):
        loss(logits, torch.tensor([[[0, 3], [1, 255]]]))
    with pytest.warns(UserWarning, match='hold 0 and 255 alone, and 255 is ignored: .* mmbirefnet.LoadMask'):
        loss(logits, torch.tensor([[[0, 0], [255, 255]]]))


def test_padding_of_a_data_set_of_mmseg_has_no_gradient():
    """Integers of mmseg's LoadAnnotations, padded by mmcv's Pad with its default."""
    padded = MMSEG_TRANSFORMS.build(dict(type='Pad', size=(6, 4)))(
        dict(img=np.zeros((4, 4, 3), np.uint8), gt_seg_map=np.eye(4, dtype=np.uint8), seg_fields=['gt_seg_map'])
    )
    target = torch.from_numpy(padded['gt_seg_map']).long()[None]
    assert (target[..., 4:] == 255).all()
    for name in ('BCELoss', 'MAELoss', 'IoULoss', 'StructureLoss'):
        logits = torch.full((1, 1, 4, 6), 0.3, requires_grad=True)
        getattr(losses, name)()(logits, target).backward()
        assert (logits.grad[..., 4:] == 0).all()
        assert logits.grad[..., :4].any()
