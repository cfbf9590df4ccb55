"""Guidance by a coarse mask: nothing changes before training, and after it the mask selects the object."""

import copy
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from small_model import build, finetune_model

from mmbirefnet.apis import BiRefNetInferencer
from mmbirefnet.deploy import fuse
from mmbirefnet.deploy.program import trace
from mmbirefnet.fileio.checkpoints import write_checkpoint
from mmbirefnet.registry import MODELS
from mmbirefnet.zoo.architecture import check_fit, infer_model_config
from mmbirefnet.zoo.to_reference import to_reference_state_dict

ROOT = Path(__file__).parents[3]
MASK_WEIGHT = 'backbone.patch_embed.proj.mask_weight'


@pytest.fixture(scope='module')
def config():
    return finetune_model()


@pytest.fixture(scope='module')
def models(config):
    """A plain model, and a guided one that was loaded from its state dict."""
    plain = build(config)
    preprocessor = dict(config['data_preprocessor'], type='mmbirefnet.GuidedDataPreProcessor')
    guided = build(config, type='mmbirefnet.GuidedBiRefNet', data_preprocessor=preprocessor)
    assert guided.load_state_dict(plain.state_dict()).missing_keys == []
    return plain, guided


def trained(guided):
    """A copy in which the mask has an effect."""
    guided = copy.deepcopy(guided)
    guided.get_parameter(MASK_WEIGHT).data = torch.randn(guided.get_parameter(MASK_WEIGHT).shape)
    return guided


def image_and_mask():
    generator = torch.Generator().manual_seed(2)
    mask = torch.zeros(2, 1, 64, 96)
    mask[:, :, 20:50, 30:60] = 1
    return torch.randn(2, 3, 64, 96, generator=generator), 2 * mask - 1


def test_parameters(models):
    plain, guided = models
    assert set(guided.state_dict()) - set(plain.state_dict()) == {MASK_WEIGHT}
    assert guided.get_parameter(MASK_WEIGHT).shape == (8, 1, 4, 4)
    assert not guided.get_parameter(MASK_WEIGHT).any()


@pytest.mark.parametrize('form', [lambda model: model, fuse])
@torch.no_grad()
def test_no_bit_changes_before_training(models, form):
    image, mask = image_and_mask()
    plain, guided = map(form, models)
    expected = plain(image, mode='tensor')
    assert torch.equal(guided(image, mode='tensor'), expected)
    assert torch.equal(guided(torch.cat([image, mask], 1), mode='tensor'), expected)
    with_mask = form(trained(models[1]))(torch.cat([image, mask], 1), mode='tensor')
    assert (with_mask - expected).abs().max() > 1e-3


def test_the_first_convolution_by_hand(models):
    """The mask's own convolution is added; the head gets the image alone."""
    _, guided = models
    guided = trained(guided)
    image, mask = image_and_mask()
    layer = guided.backbone.patch_embed.proj
    both = torch.nn.functional.conv2d(
        torch.cat([image, mask], 1), torch.cat([layer.weight, layer.mask_weight], 1), layer.bias, stride=4
    )
    torch.testing.assert_close(layer(torch.cat([image, mask], 1)), both, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(guided.extract_feat(torch.cat([image, mask], 1)).image, image)


def test_mask_of_zeros_is_no_mask(models):
    image, _ = image_and_mask()
    guided = trained(models[1])
    with torch.no_grad():
        zeros = guided(torch.cat([image, torch.zeros(2, 1, 64, 96)], 1), mode='tensor')
        assert torch.equal(zeros, guided(image, mode='tensor'))


def test_gradient_reaches_the_mask(models):
    guided = copy.deepcopy(models[1]).train()
    samples = []
    for index in range(2):
        sample = SegDataSample(metainfo=dict(ori_shape=(64, 64), img_shape=(64, 64)))
        sample.gt_sem_seg = PixelData(data=torch.rand(1, 64, 64))
        if index == 0:
            sample.guide = PixelData(data=torch.rand(1, 64, 64))
        samples.append(sample)
    images = [torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8) for _ in samples]
    data = guided.data_preprocessor(dict(inputs=images, data_samples=samples), training=True)
    assert data['inputs'].shape == (2, 4, 64, 64)
    sum(value for key, value in guided(**data, mode='loss').items() if 'loss' in key).backward()
    assert guided.get_parameter(MASK_WEIGHT).grad.abs().max() > 0


@pytest.mark.parametrize('training', [True, False])
def test_preprocessor(models, training):
    """-1 and 1 where the mask is 0 and 1, 0 in padding and without a mask; masks of another size are resized."""
    preprocessor = models[1].data_preprocessor
    samples = [SegDataSample() for _ in range(2)]
    height = 40 if training else 64
    guide = torch.zeros(1, 2 * height, 128)
    guide[:, :, 64:] = 1
    samples[0].guide = PixelData(data=guide)
    for sample in samples:
        sample.gt_sem_seg = PixelData(data=torch.zeros(1, height, 64))
    images = [torch.full((3, height, 64), 124, dtype=torch.uint8) for _ in samples]
    inputs = preprocessor(dict(inputs=images, data_samples=samples), training)['inputs']
    assert inputs.shape == (2, 4, 64, 64)
    assert torch.equal(inputs[0, 3, :height, :31], torch.full((height, 31), -1.0))
    assert torch.equal(inputs[0, 3, :height, 33:], torch.full((height, 31), 1.0))
    assert not inputs[0, 3, height:].any()
    assert not inputs[1, 3].any()
    assert inputs[0, 0, 0, 0] == pytest.approx((124 - 123.675) / 58.395, rel=1e-3)


@pytest.mark.parametrize(
    ('backbone', 'channels', 'key'),
    [
        (dict(type='ResNet', depth=18), [64, 128, 256, 512], 'backbone.conv1.mask_weight'),
        (
            dict(type='mmbirefnet.TIMMBackbone', model_name='pvt_v2_b0'),
            [32, 64, 160, 256],
            'backbone.timm_model.patch_embed.proj.mask_weight',
        ),
    ],
)
def test_other_backbones(config, backbone, channels, key):
    model = build(config, type='mmbirefnet.GuidedBiRefNet', backbone=backbone, backbone_channels=channels)
    assert [name for name in model.state_dict() if 'mask_weight' in name] == [key]
    image, mask = image_and_mask()
    with torch.no_grad():
        before = model(torch.cat([image, mask], 1), mode='tensor')
        assert torch.equal(before, model(image, mode='tensor'))
        model.get_parameter(key).add_(1)
        assert not torch.equal(before, model(torch.cat([image, mask], 1), mode='tensor'))


class TestInferencer:
    @pytest.fixture
    def inferencer(self, models):
        return BiRefNetInferencer(trained(models[1]))

    @pytest.fixture
    def image(self):
        return np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)

    @pytest.fixture
    def mask(self):
        mask = np.zeros((96, 128), np.uint8)
        mask[30:70, 20:60] = 255
        return mask

    def test_inferencer_normalizes_the_guide_like_the_model(self, inferencer, image, mask):
        """The channel is what the data preprocessor makes of the mask."""
        soft_map = inferencer(image, guide=mask, input_size=(96, 128))
        sample = SegDataSample(metainfo=dict(ori_shape=(96, 128), img_shape=(96, 128)))
        sample.guide = PixelData(data=torch.from_numpy(mask)[None] / 255)
        data = dict(inputs=[torch.from_numpy(image).permute(2, 0, 1)], data_samples=[sample])
        (expected,) = inferencer.backend.model.test_step(data)
        np.testing.assert_allclose(soft_map, expected.seg_logits.data[0].numpy(), atol=1e-5)
        assert np.abs(soft_map - inferencer(image, input_size=(96, 128))).max() > 1e-3

    @pytest.mark.parametrize(
        'options', [dict(flip=True), dict(scales=(1.0, 1.5)), dict(tile=64), dict(box=(10, 10, 90, 80))]
    )
    @pytest.mark.soak(keep=1)
    def test_without_effect_with_zero_weights(self, models, image, mask, options):
        """Every way that images go through passes the mask along, in its place."""
        inferencer, plain = BiRefNetInferencer(models[1]), BiRefNetInferencer(models[0])
        options = dict(options, input_size=(96, 128))
        np.testing.assert_array_equal(inferencer(image, guide=mask, **options), plain(image, **options))

    def test_flip_mirrors_the_mask_too(self, inferencer, image, mask):
        mirrored = inferencer(image[:, ::-1].copy(), guide=mask[:, ::-1].copy(), input_size=(96, 128))
        straight = inferencer(image, guide=mask, input_size=(96, 128))
        both = inferencer(image, guide=mask, input_size=(96, 128), flip=True)
        np.testing.assert_allclose(both, (straight + mirrored[:, ::-1]) / 2, atol=1e-5)

    @pytest.mark.soak
    def test_folder_of_masks(self, inferencer, image, mask, tmp_path):
        for name in ('images', 'masks'):
            (tmp_path / name).mkdir()
        for index, content in enumerate((mask, 255 - mask)):
            cv2.imwrite(str(tmp_path / f'images/{index}.png'), image)
            cv2.imwrite(str(tmp_path / f'masks/{index}.png'), content)
        both = inferencer(tmp_path / 'images', guide=tmp_path / 'masks', batch_size=2, input_size=(96, 128))
        for soft_map, content in zip(both, (mask, 255 - mask)):
            alone = inferencer(image, guide=content, input_size=(96, 128))
            np.testing.assert_allclose(soft_map, alone, atol=1e-5)
        (tmp_path / 'masks/1.png').unlink()
        with pytest.raises(FileNotFoundError, match=r'1\.png: no mask'):
            inferencer(tmp_path / 'images', guide=tmp_path / 'masks')

    def test_plain_models_refuse_it(self, models, image, mask):
        with pytest.raises(ValueError, match='guide: BiRefNet takes no coarse mask'):
            BiRefNetInferencer(models[0])(image, guide=mask)

    def test_plain_checkpoint_in_a_guided_model(self, models, image, mask, tmp_path):
        write_checkpoint(tmp_path / 'plain.pth', models[0].state_dict(), {})
        inferencer = BiRefNetInferencer(trained(models[1]), tmp_path / 'plain.pth')
        expected = BiRefNetInferencer(models[0])(image, input_size=(96, 128))
        np.testing.assert_array_equal(inferencer(image, guide=mask, input_size=(96, 128)), expected)


def test_architecture_from_parameters():
    cfg = Config.fromfile(ROOT / 'configs/birefnet/birefnet-guided_swin-t_1xb4-20e_finetune-1024x1024.py')
    with torch.device('meta'), DefaultScope.overwrite_default_scope('mmseg'):
        state_dict = MODELS.build(cfg.model).state_dict()
    inferred = infer_model_config(state_dict)
    assert inferred['type'] == 'mmbirefnet.GuidedBiRefNet'
    check_fit(state_dict, inferred)
    del state_dict[MASK_WEIGHT]
    assert infer_model_config(state_dict)['type'] == 'mmbirefnet.BiRefNet'


def test_not_exported_and_not_in_the_reference(models):
    with pytest.raises(ValueError, match='GuidedBiRefNet cannot be exported'):
        trace(models[1], (64, 64), 1, 'gridsample')
    with pytest.raises(ValueError, match='no guidance by a coarse mask'):
        to_reference_state_dict(models[1].state_dict())


def test_backbone_without_a_plain_convolution(config):
    with pytest.raises(ValueError, match=r'SwinTransformer has no nn\.Conv2d that takes 3 channels'):
        build(config, type='mmbirefnet.GuidedBiRefNet', backbone=dict(config['backbone'], in_channels=4))
