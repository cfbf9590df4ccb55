"""BiRefNet's soft maps: sigmoid, size, padding, flips, threshold; averaged views of an image; memory."""

import math
import weakref

import pytest
import torch
import torch.nn.functional as F
from golden import model_config
from mmengine.config import ConfigDict
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch import Tensor, nn

from mmbirefnet.models import BiRefNet
from mmbirefnet.registry import MODELS

ARCH = dict(embed_dims=16, depths=(1, 1, 1, 1), num_heads=(1, 1, 1, 1), window_size=4)
LOG3 = math.log(3)  # its sigmoid is 3/4


def config(**options) -> dict:
    cfg = model_config(arch=ARCH, channels=[32, 64, 128, 256], aspp_cfg=None, **options)
    cfg['neck']['aspp_cfg'] = None
    return cfg


@pytest.fixture(scope='module')
def model() -> BiRefNet:
    torch.manual_seed(0)
    model = MODELS.build(config())
    nn.init.normal_(model.decode_head.conv_logits.weight, std=0.3)
    return model.eval()


def postprocess(model: BiRefNet, logits: list, **metainfo) -> SegDataSample:
    (sample,) = model.postprocess_result(torch.tensor([[logits]]), [SegDataSample(metainfo=metainfo)])
    return sample


def test_sigmoid_comes_before_the_resize(model):
    """Probabilities 1/2 and 3/4, and their mean between; corners stay corners."""
    sample = postprocess(model, [[0.0, LOG3]], ori_shape=(1, 3))
    torch.testing.assert_close(sample.seg_logits.data, torch.tensor([[[0.5, 0.625, 0.75]]]))
    assert sample.pred_sem_seg.data.tolist() == [[[0, 1, 1]]]


def test_resize_in_both_directions(model):
    sample = postprocess(model, [[0.0, LOG3], [LOG3, 0.0]], ori_shape=(3, 3))
    expected = [[0.5, 0.625, 0.75], [0.625, 0.625, 0.625], [0.75, 0.625, 0.5]]
    torch.testing.assert_close(sample.seg_logits.data, torch.tensor([expected]))


def test_threshold():
    model = MODELS.build(config(threshold=0.7))
    sample = postprocess(model, [[0.0, LOG3]], ori_shape=(1, 3))
    assert sample.pred_sem_seg.data.tolist() == [[[0, 0, 1]]]


@pytest.mark.parametrize('key', ['img_padding_size', 'padding_size'])
def test_padding_is_removed(model, key):
    """Left 1, right 2, top 1, bottom 0."""
    padded = [[9.0] * 5, [9.0, 0.0, LOG3, 9.0, 9.0]]
    sample = postprocess(model, padded, ori_shape=(1, 3), **{key: (1, 2, 1, 0)})
    torch.testing.assert_close(sample.seg_logits.data, torch.tensor([[[0.5, 0.625, 0.75]]]))
    # Without an original size, that of the image.
    sample = postprocess(model, padded, **{key: (1, 2, 1, 0)})
    torch.testing.assert_close(sample.seg_logits.data, torch.tensor([[[0.5, 0.75]]]))


def test_flips_are_undone(model):
    logits = [[0.0, LOG3], [-LOG3, LOG3]]
    sample = postprocess(model, logits, ori_shape=(2, 2), flip=True, flip_direction='horizontal')
    torch.testing.assert_close(sample.seg_logits.data, torch.tensor([[[0.75, 0.5], [0.75, 0.25]]]))
    sample = postprocess(model, logits, ori_shape=(2, 2), flip=True, flip_direction='vertical')
    torch.testing.assert_close(sample.seg_logits.data, torch.tensor([[[0.25, 0.75], [0.5, 0.75]]]))
    sample = postprocess(model, logits, ori_shape=(2, 2), flip=False, flip_direction=None)
    torch.testing.assert_close(sample.seg_logits.data, torch.tensor([[[0.5, 0.75], [0.25, 0.75]]]))


def test_padding_is_removed_before_a_flip_is_undone(model):
    """The image is flipped first, then padded at its end."""
    sample = postprocess(
        model, [[0.0, LOG3, 9.0]], ori_shape=(1, 2), flip=True, flip_direction='horizontal', padding_size=(0, 1, 0, 0)
    )
    torch.testing.assert_close(sample.seg_logits.data, torch.tensor([[[0.75, 0.5]]]))


def test_half_precision_logits_give_float32(model):
    (sample,) = model.postprocess_result(torch.tensor([[[[0.0, LOG3]]]], dtype=torch.bfloat16))
    assert sample.seg_logits.data.dtype == torch.float32
    assert sample.pred_sem_seg.data.tolist() == [[[0, 1]]]


def photographs(*sizes, seed=0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8) for size in sizes]


def test_predict_from_pixels(model):
    """From BGR pixels to probabilities of the original sizes, each image of a batch to its own."""
    inputs = photographs((64, 96), (64, 96))
    sizes = [(50, 70), (128, 192)]
    samples = [SegDataSample(metainfo=dict(ori_shape=size, img_shape=(64, 96))) for size in sizes]
    with torch.no_grad():
        results = model.test_step(dict(inputs=inputs, data_samples=samples))
        mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        rgb = torch.stack(inputs).flip(1) / 255
        logits = model((rgb - mean[:, None, None]) / std[:, None, None], mode='tensor')
    assert logits.std() > 0.05
    for result, each, size in zip(results, logits, sizes):
        expected = F.interpolate(each[None].sigmoid(), size=size, mode='bilinear', align_corners=True)[0]
        torch.testing.assert_close(result.seg_logits.data, expected, rtol=0, atol=1e-5)
        assert torch.equal(result.pred_sem_seg.data, (result.seg_logits.data > 0.5).float())


def test_predict_without_samples(model):
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        (result,) = model(x, mode='predict')
        torch.testing.assert_close(result.seg_logits.data, model(x, mode='tensor')[0].sigmoid())


def test_predict_in_windows(model):
    """mmseg's sliding window; every window is an image of its own."""
    x = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    sliding = MODELS.build(config() | dict(test_cfg=ConfigDict(mode='slide', crop_size=(64, 64), stride=(32, 32))))
    sliding.load_state_dict(model.state_dict())
    with torch.no_grad():
        (result,) = sliding.eval()(x, mode='predict')
        left, right = model(x[..., :64], mode='tensor')[0], model(x[..., 32:], mode='tensor')[0]
    expected = torch.cat([left[..., :32], (left[..., 32:] + right[..., :32]) / 2, right[..., 32:]], -1)
    torch.testing.assert_close(result.seg_logits.data, expected.sigmoid(), rtol=0, atol=1e-5)


@pytest.fixture(scope='module')
def averaging(model):
    averaging = MODELS.build(dict(type='mmbirefnet.SoftMapTTAModel', module=config()))
    averaging.module.load_state_dict(model.state_dict())
    return averaging.eval()


def test_averaged_views_by_hand(averaging):
    def view(*probabilities):
        return SegDataSample(
            seg_logits=PixelData(data=torch.tensor([[probabilities]])),
            metainfo=dict(img_path='a.png'),
        )

    (merged,) = averaging.merge_preds([[view(0.2, 0.9), view(0.6, 0.3), view(0.4, 0.6)]])
    torch.testing.assert_close(merged.seg_logits.data, torch.tensor([[[0.4, 0.6]]]))
    assert merged.pred_sem_seg.data.tolist() == [[[0, 1]]]
    assert merged.img_path == 'a.png'


def test_averaged_views_of_photographs(averaging, model):
    (image,) = photographs((64, 96))
    metainfo = dict(ori_shape=(40, 60), img_shape=(64, 96))
    views = dict(
        inputs=[[image], [image.flip(2)]],
        data_samples=[
            [SegDataSample(metainfo=dict(metainfo, flip=False, flip_direction=None))],
            [SegDataSample(metainfo=dict(metainfo, flip=True, flip_direction='horizontal'))],
        ],
    )
    with torch.no_grad():
        (result,) = averaging.test_step(views)
        plain, flipped = (
            model.test_step(dict(inputs=[each], data_samples=[SegDataSample(metainfo=metainfo)]))[0].seg_logits.data
            for each in (image, image.flip(2))
        )
    assert (plain - flipped.flip(2)).abs().max() > 1e-3
    torch.testing.assert_close(result.seg_logits.data, (plain + flipped.flip(2)) / 2)


def test_other_heads_and_several_classes():
    """With another head, as mmseg's segmentor."""
    cfg = config()
    cfg['decode_head'] = dict(
        type='FCNHead', in_channels=256, in_index=3, channels=8, num_convs=1, num_classes=3, dropout_ratio=0
    )
    model = MODELS.build(cfg).eval()
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        (result,) = model(x, mode='predict')
        logits = F.interpolate(model(x, mode='tensor'), size=(64, 64), mode='bilinear')
    torch.testing.assert_close(result.seg_logits.data, logits[0])
    assert torch.equal(result.pred_sem_seg.data, logits.argmax(1))


def without_in_channels(**options) -> dict:
    cfg = dict(config(), backbone_channels=[16, 32, 64, 128], **options)
    for part in ('neck', 'decode_head'):
        cfg[part] = {key: value for key, value in cfg[part].items() if key != 'in_channels'}
    return cfg


def shapes(cfg: dict) -> dict:
    with torch.device('meta'):
        return {name: value.shape for name, value in MODELS.build(cfg).state_dict().items()}


@pytest.mark.parametrize('multi_scale_input', [True, False])
def test_channels_follow_from_those_of_the_backbone(multi_scale_input):
    cfg = without_in_channels(multi_scale_input=multi_scale_input)
    explicit = [32, 64, 128, 256] if multi_scale_input else [16, 32, 64, 128]
    expected = dict(
        config(),
        multi_scale_input=multi_scale_input,
        neck=dict(cfg['neck'], in_channels=explicit),
        decode_head=dict(cfg['decode_head'], in_channels=explicit),
    )
    assert shapes(cfg) == shapes(expected)
    assert 'in_channels' not in cfg['neck'] | cfg['decode_head']  # the caller's config stays as it was


def test_channels_of_a_head_without_a_neck():
    cfg = without_in_channels()
    del cfg['neck']
    with torch.device('meta'):
        assert MODELS.build(cfg).decode_head.in_channels == [32, 64, 128, 256]


def test_channels_of_a_head_behind_a_pyramid():
    cfg = without_in_channels()
    cfg['neck'] = dict(type='mmbirefnet.PyramidLocalizationModule', out_channels=(8, 24, 40, 56), aspp_cfg=None)
    with torch.device('meta'):
        model = MODELS.build(cfg)
    assert [(conv.in_channels, conv.out_channels) for conv in model.neck.projections] == [
        (32, 8),
        (64, 24),
        (128, 40),
        (256, 56),
    ]
    assert model.decode_head.in_channels == [8, 24, 40, 56]


def test_explicit_channels_are_used_as_they_are():
    cfg = dict(config(), backbone_channels=[1, 2, 3, 4])
    assert shapes(cfg) == shapes(config())


@pytest.mark.parametrize('mode', ['tensor', 'predict'])
def test_maps_are_freed_after_their_last_use(mode):
    model = MODELS.build(config()).eval()
    maps, alive = [], []
    model.neck.register_forward_hook(lambda *args: maps.extend(map(weakref.ref, args[-1])))
    for block in model.decode_head.blocks.values():
        block.register_forward_pre_hook(lambda *_: alive.append([each() is not None for each in maps]))
    with torch.no_grad():
        model(torch.randn(1, 3, 64, 96), mode=mode)
    assert [sum(each) for each in alive] == [4, 2, 1, 0]  # for blocks 4 to 1
