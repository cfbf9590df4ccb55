"""Our models in rembg itself."""

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from doc_blocks import blocks
from onnx import TensorProto, helper, numpy_helper, save
from PIL import Image

from mmbirefnet.apis import BiRefNetInferencer
from mmbirefnet.datasets.preparation.synthetic import make_sample
from mmbirefnet.imaging.maps import to_uint8

rembg = pytest.importorskip('rembg', reason='needs rembg')
integration = pytest.importorskip('mmbirefnet.integrations.rembg')
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope='module')
def image(tmp_path_factory):
    """Path of an image, 120x80 (width x height)."""
    path = tmp_path_factory.mktemp('rembg') / 'image.png'
    cv2.imwrite(str(path), make_sample(0, 'DIS-VD', 1, (80, 120)).image)
    return path


@pytest.fixture(scope='module')
def onnx_model(tmp_path_factory):
    """A model of fixed size, 64x32 (width x height), whose logits are twice the normalized red channel, less 1."""
    path = tmp_path_factory.mktemp('rembg') / 'red.onnx'
    kernel = np.zeros((1, 3, 1, 1), np.float32)
    kernel[0, 0] = 2
    tensors = [numpy_helper.from_array(kernel, 'kernel'), numpy_helper.from_array(-np.ones(1, np.float32), 'bias')]
    shapes = [('image', [1, 3, 32, 64]), ('logits', [1, 1, 32, 64])]
    inputs, outputs = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes)
    graph = helper.make_graph(
        [helper.make_node('Conv', ['image', 'kernel', 'bias'], ['logits'])], 'g', [inputs], [outputs], tensors
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid('', 19)], ir_version=9), path)
    return path


def test_onnx_model_of_another_size(onnx_model, image):
    session = rembg.new_session('mmbirefnet', model_path=str(onnx_model))
    mask = rembg.remove(Image.open(image), session=session, only_mask=True)
    assert mask.mode == 'L'
    assert mask.size == (120, 80)

    # The map by hand: resize, normalize, sigmoid, resize with aligned corners, trunc(255 p).
    rgb = cv2.resize(cv2.imread(str(image))[..., ::-1], (64, 32)).astype(np.float32)
    logits = 2 * (rgb[..., 0] - 123.675) / 58.395 - 1
    probability = torch.from_numpy(logits).sigmoid()[None, None]
    expected = 255 * F.interpolate(probability, (80, 120), mode='bilinear', align_corners=True)[0, 0].numpy()
    np.testing.assert_allclose(np.asarray(mask), expected, atol=1.01)
    # rembg's own sessions would stretch it to 0..255.
    assert 0 < np.asarray(mask).min() < np.asarray(mask).max() < 255


def test_checkpoint_and_its_options(trained_checkpoint, image):
    config, checkpoint = map(str, trained_checkpoint)
    options = dict(config=config, device='cpu', input_size=(96, 128))
    session = rembg.new_session('mmbirefnet', model_path=checkpoint, **options)
    inferencer = BiRefNetInferencer(config, checkpoint, device='cpu')
    expected = to_uint8(inferencer(str(image), input_size=(96, 128)))
    cutout = rembg.remove(Image.open(image), session=session)
    np.testing.assert_array_equal(np.asarray(cutout)[..., 3], expected)
    flipped = to_uint8(inferencer(str(image), input_size=(96, 128), flip=True))
    mask = rembg.remove(Image.open(image), session=session, only_mask=True, flip=True)
    np.testing.assert_array_equal(np.asarray(mask), flipped)
    assert not np.array_equal(flipped, expected)


def test_register_a_name(onnx_model, image):
    integration.register('red', onnx_model)
    from_bytes = rembg.remove(image.read_bytes(), session=rembg.new_session('red'), only_mask=True)
    by_path = rembg.new_session('mmbirefnet', model_path=str(onnx_model)).predict(Image.open(image))[0]
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(from_bytes))), np.asarray(by_path))
    with pytest.raises(ValueError, match='red: rembg has a model of this name already'):
        integration.register('red', onnx_model)
    with pytest.raises(ValueError, match='blue: unknown options input_sise; known are config'):
        integration.register('blue', onnx_model, input_sise=64)
    with pytest.raises(ValueError, match='input_size=65'):
        rembg.new_session('mmbirefnet', model_path=str(onnx_model), input_size=65)


def test_example_of_the_page(onnx_model, image, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(onnx_model, 'model.onnx')
    Image.open(image).convert('RGB').save('photo.jpg')
    (example,) = blocks('docs/en/user_guides/rembg.md', 'session')
    found = {}
    exec(example, found)
    assert found['cutout'].size == (120, 80)
    assert rembg.new_session('sharp').settings == {'flip': True}


def test_command(onnx_model, image, tmp_path):
    pytest.importorskip('gradio', reason='needs rembg[cli]')
    extras = json.dumps(dict(model_path=str(onnx_model)))
    words = ['-m', 'mmbirefnet.integrations.rembg', 'i', '-m', 'mmbirefnet', '-om', '-x', extras]
    command = [sys.executable, *words, str(image), str(tmp_path / 'mask.png')]
    subprocess.run(command, env=os.environ | {'PYTHONPATH': str(ROOT)}, check=True)
    expected = BiRefNetInferencer(str(onnx_model))(str(image), dtype='uint8')
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / 'mask.png')), expected)
