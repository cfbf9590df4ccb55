"""Exported models against the model they were made from."""

import json
import runpy
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from golden import image, model_config
from mmengine.config import Config
from PIL import Image

import mmbirefnet
from mmbirefnet.apis.onnx_backend import OnnxBackend
from mmbirefnet.apis.torch_backend import TorchBackend
from mmbirefnet.datasets.preparation.synthetic import make_sample
from mmbirefnet.deploy import fuse
from mmbirefnet.registry import MODELS

pytest.importorskip('mmbirefnet.deploy.program', exc_type=ImportError)  # torch < 2.6
from mmbirefnet.deploy.dynamic_size import DynamicLogits  # noqa: E402
from mmbirefnet.deploy.onnx import export_onnx  # noqa: E402
from mmbirefnet.deploy.program import describe, trace  # noqa: E402

TOOL = Path(__file__).parents[2] / 'tools/export_onnx.py'
SIZE = (64, 96)
TINY = dict(
    arch=dict(embed_dims=8, depths=(1, 1, 1, 1), num_heads=(1, 1, 1, 1), window_size=4), channels=(16, 32, 64, 128)
)


@pytest.fixture(scope='module')
def model(trained_checkpoint):
    return TorchBackend(*trained_checkpoint, device='cpu', fuse=False).model


@pytest.fixture
def export(trained_checkpoint, tmp_path, monkeypatch, capsys):
    """The tool, run with options on a drawing; what it printed, and the file."""

    def run(out, *options):
        image = tmp_path / 'drawing.png'
        Image.fromarray(make_sample(0, 'DIS-VD', 0, (80, 100)).image[..., ::-1]).save(image)
        words = [TOOL, *trained_checkpoint, '-o', tmp_path / out, '--images', image, *options]
        monkeypatch.setattr(sys, 'argv', [str(word) for word in words])
        runpy.run_path(str(TOOL), run_name='__main__')
        return capsys.readouterr().out, tmp_path / out

    return run


def logits(model, x):
    with torch.no_grad():
        return model(x, mode='tensor').numpy()


@pytest.mark.soak
def test_standard_form_at_any_batch(model, tmp_path):
    path = tmp_path / 'folder' / 'model.onnx'
    written = export_onnx(model, path, SIZE, None, 'standard', config='pico', checkpoint='pico.pth')
    session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
    (node,) = session.get_inputs()
    assert (node.name, node.type, node.shape) == ('input_image', 'tensor(float)', ['batch', 3, *SIZE])
    (node,) = session.get_outputs()
    assert (node.name, node.type, node.shape) == ('output_image', 'tensor(float)', ['batch', 1, *SIZE])
    for n in (1, 3):
        x = image(n, n, *SIZE)
        (found,) = session.run(None, {'input_image': x.numpy()})
        np.testing.assert_allclose(found, logits(model, x), rtol=0, atol=1e-4)

    proto = onnx.load(path)
    onnx.checker.check_model(proto, full_check=True)
    kinds = {node.op_type for node in proto.graph.node}
    assert 'DeformConv' in kinds
    assert 'GridSample' not in kinds
    assert {(opset.domain, opset.version) for opset in proto.opset_import} == {('', 19)}
    props = {prop.key: prop.value for prop in proto.metadata_props}
    assert props == written.to_props()
    assert props == {
        'mmbirefnet.format_version': '1',
        'mmbirefnet.mmbirefnet_version': mmbirefnet.__version__,
        'mmbirefnet.input_size': '[64, 96]',
        'mmbirefnet.mean': props['mmbirefnet.mean'],
        'mmbirefnet.std': props['mmbirefnet.std'],
        'mmbirefnet.channel_order': 'RGB',
        'mmbirefnet.output': 'logits',
        'mmbirefnet.deform_conv': 'standard',
        'mmbirefnet.config': 'pico',
        'mmbirefnet.checkpoint': 'pico.pth',
        'mmbirefnet.dynamic_size': 'false',
    }
    np.testing.assert_allclose(json.loads(props['mmbirefnet.mean']), [123.675, 116.28, 103.53], rtol=1e-6)
    np.testing.assert_allclose(json.loads(props['mmbirefnet.std']), [58.395, 57.12, 57.375], rtol=1e-6)
    # Of where it was made the file knows nothing.
    assert str(Path.cwd()).encode() not in path.read_bytes()
    assert b'site-packages' not in path.read_bytes()


@pytest.mark.soak
def test_grid_sample_form_by_the_tool(export):
    printed, path = export('out/model.onnx')
    first, second, third = printed.splitlines()
    assert first.startswith(f'wrote {path}, ')
    assert first.endswith(' MB, 96x96')
    assert 'drawing.png: logits differ by ' in second
    assert float(second.split()[4].strip(',')) <= 1e-3
    assert third.startswith('median seconds per image: PyTorch, fused ')
    proto = onnx.load(path)
    onnx.checker.check_model(proto, full_check=True)
    kinds = {node.op_type for node in proto.graph.node}
    assert 'GridSample' in kinds
    assert kinds.isdisjoint({'DeformConv', 'SequenceAt', 'Shape'})  # other runtimes lack some of them
    assert {(opset.domain, opset.version) for opset in proto.opset_import} == {('', 18)}
    (batch, *_) = proto.graph.input[0].type.tensor_type.shape.dim
    assert batch.dim_value == 1


@pytest.mark.soak
@pytest.mark.parametrize('form', ['gridsample', 'standard'])
def test_any_size(model, tmp_path, form):
    """Sizes that leave windows and merged patches padded or not, down to the smallest, in any batch."""
    path = tmp_path / 'model.onnx'
    written = export_onnx(model, path, SIZE, None, form, dynamic_size=True)
    assert written.dynamic_size
    proto = onnx.load(path)
    onnx.checker.check_model(proto, full_check=True)
    # TensorRT lacks sequences of tensors.
    assert {node.op_type for node in proto.graph.node}.isdisjoint({'SplitToSequence', 'SequenceAt'})
    backend = OnnxBackend(path, ['CPUExecutionProvider'])
    assert (backend.fixed_size, backend.input_size, backend.metadata) == (False, SIZE, written)
    session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
    (node,) = session.get_inputs()
    assert node.shape == ['batch', 3, 'height', 'width']
    for n, size in ((1, SIZE), (2, (32, 32)), (1, (160, 96)), (1, (96, 352)), (1, (256, 256))):
        x = image(n, n, *size)
        (found,) = session.run(None, {'input_image': x.numpy()})
        np.testing.assert_allclose(found, logits(model, x), rtol=0, atol=1e-4)


@pytest.mark.soak
def test_half_weights_by_the_tool(export, model):
    printed, path = export('half.onnx', '--weights', 'float16', '--dynamic-size')
    first, second, third, _ = printed.splitlines()
    assert first.endswith(' MB, any size, 96x96')
    assert 'drawing.png: logits differ by ' in second
    assert 'drawing.png, 128x160: logits differ by ' in third
    initializers = onnx.load(path).graph.initializer
    kernels = [tensor for tensor in initializers if len(tensor.dims) > 1]
    assert {tensor.data_type for tensor in kernels} <= {onnx.TensorProto.FLOAT16, onnx.TensorProto.INT64}
    assert sum(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in kernels) > 50
    # Rounding kernels to 11 bits moves the probabilities of this model by far less than a gray level of their PNG.
    x = image(0, 1, *SIZE)
    session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
    (found,) = session.run(None, {'input_image': x.numpy()})
    expected = logits(model, x)
    assert 0 < np.abs(1 / (1 + np.exp(-found)) - 1 / (1 + np.exp(-expected))).max() < 0.02


@pytest.mark.soak
def test_int8_by_the_tool(export, model, tmp_path):
    """Calibrated on other images than the one that is compared; the file is smaller, and the maps are almost equal."""
    (tmp_path / 'calibration').mkdir()
    for index in range(1, 9):
        drawing = make_sample(0, 'DIS-TR', index, (80, 100)).image[..., ::-1]
        Image.fromarray(drawing).save(tmp_path / f'calibration/{index}.png')
    printed, path = export('model.onnx', '--weights', 'int8', '--calibration', tmp_path / 'calibration')
    assert 0 < float(printed.partition('on average ')[2].split()[0]) < 0.02
    proto = onnx.load(path)
    onnx.checker.check_model(proto, full_check=True)
    kinds = Counter(node.op_type for node in proto.graph.node)
    products = sum(kinds[kind] for kind in ('Conv', 'MatMul', 'Gemm'))
    assert products > 50
    assert kinds['QuantizeLinear'] > products  # one before each, some after it
    values = [onnx.numpy_helper.to_array(tensor) for tensor in proto.graph.initializer]
    kernels = sum(value.size for value in values if value.dtype == np.int8)
    parameters = sum(parameter.numel() for parameter in fuse(model).parameters())
    assert kernels > 0.8 * parameters
    assert OnnxBackend(path, ['CPUExecutionProvider']).metadata.checkpoint == 'birefnet_pico.pth'


def test_int8_needs_images(model, tmp_path):
    with pytest.raises(ValueError, match='calibration: int8 needs images'):
        export_onnx(model, tmp_path / 'model.onnx', SIZE, weights='int8')
    with pytest.raises(ValueError, match='the others none; got 1 for float32'):
        export_onnx(model, tmp_path / 'model.onnx', SIZE, calibration=[np.zeros((*SIZE, 3), np.uint8)])


def test_only_swin_takes_any_size():
    model = torch.nn.Module()
    model.backbone = torch.nn.Identity()
    with pytest.raises(ValueError, match='Identity: models with this backbone are exported at a fixed size only'):
        DynamicLogits(model)


@pytest.mark.soak
def test_torch_export_needs_torch_alone(export, model, tmp_path):
    printed, path = export('model.pt2', '--format', 'torch-export', '--dynamic-batch', '--size', 64, 96)
    assert 'drawing.png: logits differ by ' in printed
    x = image(0, 3, *SIZE)
    torch.save(x, tmp_path / 'x.pth')
    code = (
        'import sys, torch\n'
        "sys.modules.update(dict.fromkeys(('mmcv', 'mmengine', 'mmseg', 'mmbirefnet', 'torchvision')))\n"
        "extra = {'mmbirefnet.json': ''}\n"
        "module = torch.export.load('model.pt2', extra_files=extra).module()\n"
        "torch.save((module(torch.load('x.pth')), extra['mmbirefnet.json']), 'y.pth')\n"
    )
    subprocess.run([sys.executable, '-W', 'ignore', '-c', code], cwd=tmp_path, check=True)
    found, use = torch.load(tmp_path / 'y.pth')
    np.testing.assert_allclose(found.detach().numpy(), logits(model, x), rtol=0, atol=1e-4)
    use = json.loads(use)
    assert use['input_size'] == [64, 96]
    assert use['deform_conv'] == 'gridsample'
    assert use['output'] == 'logits'


@pytest.mark.soak
def test_fixed_batch_is_compared_and_disagreement_fails(export):
    with pytest.raises(SystemExit, match=r'model.pt2 differs from PyTorch by more than 1e-12 \(--tolerance\)'):
        export('model.pt2', '--format', 'torch-export', '--batch-size', 2, '--tolerance', 1e-12)


@pytest.mark.parametrize(
    ('out', 'options', 'message'),
    [
        ('model.pt2', ['--format', 'torch-export', '--dynamic-size'], '--dynamic-size and --weights need'),
        ('model.onnx', ['--weights', 'int8'], '--weights int8 and --calibration must'),
        ('model.onnx', ['--calibration', 'images'], '--weights int8 and --calibration must'),
        ('model.pt2', [], 'must end in .onnx with --format onnx'),
        ('model.onnx', ['--format', 'torch-export'], 'must end in .pt2 with --format torch-export'),
        ('model.pt2', ['--format', 'torch-export', '--opset', 19], '--deform-conv standard and --opset need'),
    ],
)
def test_options_that_do_not_fit(export, capsys, out, options, message):
    with pytest.raises(SystemExit):
        export(out, *options)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['--size', 100, 96], 'error: size must be multiples of 32, got 100x96'),
        (['--batch-size', 0], 'error: batch_size must be at least 1, or None for any, got 0'),
        (['--deform-conv', 'standard', '--opset', 18], "error: deform_conv='standard' needs opset 19 or later, got 18"),
        (['--images', 'nowhere.jpg'], 'error: nowhere.jpg'),
    ],
)
def test_wrong_values(export, options, message):
    with pytest.raises(SystemExit, match=message.replace('(', r'\(')):
        export('model.onnx', *options)


def test_only_one_channel_of_a_birefnet():
    with pytest.raises(ValueError, match='only models with one output channel can be exported, this one has 2'):
        trace(
            MODELS.build(model_config(**TINY, out_channels=2, loss_decode=dict(type='CrossEntropyLoss'))),
            SIZE,
            1,
            'standard',
        )
    with pytest.raises(TypeError, match='expected a mmbirefnet.BiRefNet'):
        trace(torch.nn.Conv2d(1, 1, 1), SIZE, 1, 'standard')


@pytest.mark.parametrize(
    ('preprocessor', 'expected'),
    [
        (dict(mean=[1, 2, 3], std=[4, 5, 6]), ((1, 2, 3), (4, 5, 6), 'BGR')),
        (dict(bgr_to_rgb=True), ((0, 0, 0), (1, 1, 1), 'RGB')),
    ],
)
def test_metadata_follow_the_preprocessor(preprocessor, expected):
    cfg = Config(model_config(**TINY))
    cfg.data_preprocessor = dict(type='SegDataPreProcessor', **preprocessor)
    meta = describe(MODELS.build(cfg), SIZE, 'standard')
    assert (meta.mean, meta.std, meta.channel_order) == expected
