import numpy as np
import pytest
import torch
from mmengine.model import BaseDataPreprocessor, ImgDataPreprocessor
from mmseg.models import SegDataPreProcessor
from torch import nn

from mmbirefnet.models.normalization import get_normalization

IMAGE = torch.arange(3 * 32 * 32, dtype=torch.uint8).view(3, 32, 32)  # BGR


def model_with(preprocessor):
    model = nn.Identity()
    model.data_preprocessor = preprocessor
    return model


@pytest.mark.parametrize('kind', [SegDataPreProcessor, ImgDataPreprocessor])
@pytest.mark.parametrize('order', [dict(), dict(bgr_to_rgb=True), dict(rgb_to_bgr=True)])
@pytest.mark.parametrize(
    'numbers', [dict(), dict(mean=[1, 2, 3], std=[4, 5, 6]), dict(mean=[123.675] * 3, std=[0.1] * 3)]
)
def test_the_model_gets_what_its_data_preprocessor_returns(kind, order, numbers):
    preprocessor = kind(**order, **numbers)
    expected = preprocessor(dict(inputs=[IMAGE]))['inputs'][0]
    mean, std, channel_order = get_normalization(model_with(preprocessor))
    assert channel_order == ('RGB' if order else 'BGR')
    image = IMAGE.float().flip(0) if channel_order == 'RGB' else IMAGE.float()
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (mean, std))
    np.testing.assert_array_equal((image - mean) / std, expected)


@pytest.mark.parametrize(
    'preprocessor', [SegDataPreProcessor(test_cfg=dict(size_divisor=32)), ImgDataPreprocessor(pad_size_divisor=32)]
)
def test_of_data_preprocessors_that_pad(preprocessor):
    assert get_normalization(model_with(preprocessor)) == ((0, 0, 0), (1, 1, 1), 'BGR')


def test_one_mean_of_all_channels():
    preprocessor = ImgDataPreprocessor(mean=[127.5], std=[2])
    assert get_normalization(model_with(preprocessor)) == ((127.5,) * 3, (2,) * 3, 'BGR')


@pytest.mark.parametrize('model', [nn.Identity(), model_with(None), model_with(BaseDataPreprocessor())])
def test_models_without_a_config_use_imagenet_normalization(model):
    expected = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375), 'RGB'
    assert get_normalization(model) == expected
