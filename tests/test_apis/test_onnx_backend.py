"""The ONNX backend, on models whose maps can be worked out by hand, and on an exported one without torch."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from doc_blocks import blocks
from onnx import TensorProto, helper
from PIL import Image

from mmbirefnet.apis import BiRefNetInferencer
from mmbirefnet.apis.onnx_backend import OnnxBackend
from mmbirefnet.datasets.preparation.synthetic import make_sample
from mmbirefnet.fileio.onnx_metadata import IMAGENET_MEAN, IMAGENET_STD, OnnxMetadata

ROOT = Path(__file__).parents[2]
CPU = ['CPUExecutionProvider']
RNG = np.random.default_rng(0)
FIRST, LAST = (1, 0, 0), (0, 0, 1)


@pytest.fixture
def write(tmp_path):
    """Writes a model whose output is its input's channels, weighted."""

    def write(shape=('batch', 3, 32, 64), weights=FIRST, output='output_image', props=None, dtype=TensorProto.FLOAT):
        dtypes = {TensorProto.FLOAT: np.float32, TensorProto.FLOAT16: np.float16}
        kernel = onnx.numpy_helper.from_array(np.array(weights, dtypes[dtype]).reshape(1, 3, 1, 1), 'weight')
        graph = helper.make_graph(
            [helper.make_node('Conv', ['image', 'weight'], [output])],
            'weighted',
            [helper.make_tensor_value_info('image', dtype, shape)],
            [helper.make_tensor_value_info(output, dtype, [shape[0], 1, *shape[2:]])],
            [kernel],
        )
        return save(graph, props)

    def save(graph, props=None, domain=''):
        imports = [helper.make_opsetid('', 19)] + ([helper.make_opsetid(domain, 1)] if domain else [])
        model = helper.make_model(graph, opset_imports=imports, ir_version=9)
        helper.set_model_props(model, props or {})
        onnx.save(model, tmp_path / 'model.onnx')
        return tmp_path / 'model.onnx'

    write.save = save
    return write


def random_images(n=2, height=32, width=64):
    return RNG.integers(0, 256, (n, height, width, 3), np.uint8)


def sigmoid(x):
    return 1 / (1 + np.exp(-x.astype(np.float64)))


def test_released_files_are_fed_as_by_the_reference(write):
    backend = OnnxBackend(write(), CPU)
    assert (backend.name, backend.input_size, backend.fixed_size, backend.max_batch) == ('model', (32, 64), True, None)
    images = random_images(3)
    maps = backend(images)
    assert (maps.dtype, maps.shape) == (np.float32, (3, 32, 64))
    np.testing.assert_allclose(maps, sigmoid((images[..., 0] / 255 - 0.485) / 0.229), atol=1e-6)
    blue = OnnxBackend(write(weights=LAST, output='logits'), CPU)(images)
    np.testing.assert_allclose(blue, sigmoid((images[..., 2] / 255 - 0.406) / 0.225), atol=1e-6)


def test_far_logits_do_not_overflow(write):
    with np.errstate(all='raise'):
        maps = OnnxBackend(write(weights=(1e4, 0, 0)), CPU)(
            np.array([0, 255], np.uint8).repeat(1024 * 3).reshape(1, 32, 64, 3)
        )
    assert set(np.unique(maps)) == {0, 1}


def test_probabilities_by_name_or_by_word(write):
    images = random_images()
    options = dict(mean=(0, 0, 0), std=(255, 255, 255))
    by_name = OnnxBackend(write(output='alphas'), CPU, **options)
    np.testing.assert_allclose(by_name(images), images[..., 0] / 255, atol=1e-6)
    by_word = OnnxBackend(write(output='mask'), CPU, output='probabilities', **options)
    np.testing.assert_allclose(by_word(images), images[..., 0] / 255, atol=1e-6)
    logits = OnnxBackend(write(output='mask'), CPU, output='logits', **options)
    np.testing.assert_allclose(logits(images), sigmoid(images[..., 0] / 255), atol=1e-6)
    with pytest.raises(
        ValueError, match=r"model\.onnx.*an output named 'mask' \(known names: .*\).*pass output='logits'"
    ):
        OnnxBackend(write(output='mask'), CPU)
    with pytest.raises(ValueError, match="output must be one of 'logits', 'probabilities', got 'alpha'"):
        OnnxBackend(write(), CPU, output='alpha')
    with pytest.raises(ValueError, match='mean and std must be three numbers each'):
        OnnxBackend(write(), CPU, std=(1, 1, 0))
    with pytest.raises(ValueError, match=r'expected probabilities, got -\d.*to \d'):
        OnnxBackend(write(), CPU, output='probabilities')(images)


def test_metadata_say_how_it_is_fed(write):
    meta = OnnxMetadata((32, 64), (10.0, 20.0, 30.0), (2.0, 4.0, 8.0), 'BGR', 'logits', 'standard', 'tiny', 'tiny.pth')
    path = write(weights=LAST, props=meta.to_props(), output='anything')
    backend = OnnxBackend(path, CPU)
    assert backend.metadata == meta
    images = random_images()
    np.testing.assert_allclose(backend(images), sigmoid((images[..., 0] - 30.0) / 8), atol=1e-6)
    with pytest.raises(ValueError, match=r'model.onnx: its metadata contains output, std. Fix: do not pass it'):
        OnnxBackend(path, CPU, output='logits', std=(1, 1, 1))


def test_metadata_come_back_as_written():
    meta = OnnxMetadata((96, 64), (1.5, 2.0, 3.0), (4.0, 5.0, 6.0), config='a', checkpoint='b', mmbirefnet_version='0')
    assert OnnxMetadata.from_props(meta.to_props() | {'other': 'x'}) == meta
    assert OnnxMetadata.from_props({'other': 'x'}) is None
    dynamic = OnnxMetadata((96, 64), dynamic_size=True)
    assert OnnxMetadata.from_props(dynamic.to_props()) == dynamic
    older = {name: text for name, text in meta.to_props().items() if name != 'mmbirefnet.dynamic_size'}
    assert OnnxMetadata.from_props(older) == meta  # of a fixed size
    assert (OnnxMetadata((32, 32)).mean, OnnxMetadata((32, 32)).std) == (IMAGENET_MEAN, IMAGENET_STD)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(format_version='2'), r"format version '2', this mmbirefnet reads up to 1\. Fix: update mmbirefnet"),
        (dict(mean='[1, 2]'), r'metadata is damaged \(mean must be 3 numbers, found .*\)\. Fix: export the model'),
        (dict(input_size='32'), 'metadata is damaged'),
        (dict(std='nonsense'), 'metadata is damaged'),
        (dict(std=None), "metadata is damaged .'mmbirefnet.std'"),
        (dict(output='masks'), "unknown output 'masks'"),
    ],
)
def test_metadata_that_are_wrong(write, change, message):
    props = OnnxMetadata((32, 64)).to_props() | {f'mmbirefnet.{name}': value for name, value in change.items()}
    path = write(props={name: value for name, value in props.items() if value is not None})
    with pytest.raises(ValueError, match=rf'model\.onnx: its .*{message}'):
        OnnxBackend(path, CPU)


def test_fixed_batch_is_filled_up(write):
    backend = OnnxBackend(write(shape=(3, 3, 32, 64)), CPU)
    images = random_images(3)
    whole = backend(images)
    assert backend.max_batch == 3
    assert whole.shape == (3, 32, 64)
    for n in (1, 2):
        assert np.array_equal(backend(images[:n]), whole[:n])
    with pytest.raises(
        ValueError, match='expected at most 3 images at once, got 4. Fix: export .* with --dynamic-batch'
    ):
        backend(random_images(4))


def test_any_size(write):
    backend = OnnxBackend(write(shape=('n', 3, 'h', 'w')), CPU)
    assert (backend.fixed_size, backend.input_size, backend.max_batch) == (False, (1024, 1024), None)
    images = random_images(1, 96, 32)
    np.testing.assert_allclose(backend(images), sigmoid((images[..., 0] / 255 - 0.485) / 0.229), atol=1e-6)


def test_half_precision(write):
    images = random_images()
    maps = OnnxBackend(write(dtype=TensorProto.FLOAT16), CPU)(images)
    assert maps.dtype == np.float32
    np.testing.assert_allclose(maps, sigmoid((images[..., 0] / 255 - 0.485) / 0.229), atol=1e-3)


@pytest.mark.parametrize(
    ('images', 'error', 'message'),
    [
        (random_images().astype(np.float32), TypeError, 'numpy array of uint8, got float32'),
        ([1], TypeError, 'numpy array of uint8, got list'),
        (random_images()[0], ValueError, r'shape \(N, H, W, 3\), got \(32, 64, 3\)'),
        (random_images()[..., :2], ValueError, r'got \(2, 32, 64, 2\)'),
        (
            random_images(1, 64, 64),
            ValueError,
            'model.onnx: expected images of 32x64, got 64x64. Fix: resize them, or export',
        ),
    ],
)
def test_images_that_do_not_fit(write, images, error, message):
    with pytest.raises(error, match=message):
        OnnxBackend(write(), CPU)(images)


def test_sizes_are_multiples_of_32(write):
    with pytest.raises(ValueError, match='expected multiples of 32, got 40x64. Fix: resize them'):
        OnnxBackend(write(shape=('n', 3, 'h', 'w')), CPU)(random_images(1, 40, 64))


def test_files_that_are_no_model(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'nowhere\.onnx: no such file'):
        OnnxBackend(tmp_path / 'nowhere.onnx')
    for content in (b'', b'<html>Not found</html>', RNG.bytes(1000)):
        (tmp_path / 'bad.onnx').write_bytes(content)
        with pytest.raises(ValueError, match=r'bad\.onnx: not an ONNX model that onnxruntime .* can load'):
            OnnxBackend(tmp_path / 'bad.onnx')


def test_operators_that_onnxruntime_lacks(write):
    image, out = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, channels, 32, 32])
        for name, channels in (('image', 3), ('output_image', 1))
    )
    node = helper.make_node('MMCVModulatedDeformConv2d', ['image'], ['output_image'], domain='mmdeploy')
    path = write.save(helper.make_graph([node], 'custom', [image], [out]), domain='mmdeploy')
    with pytest.raises(
        ValueError, match=r'model\.onnx: .*can load .*DeformConv.*. Fix: update onnxruntime, or export with'
    ):
        OnnxBackend(path, CPU)


def test_examples_of_the_export_page(write, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.new('RGB', (40, 30), (255, 30, 10)).save('photo.jpg')
    write(output='opacity', weights=(0.2, 0, 0)).rename('other.onnx')
    write()
    red = np.array((255 - IMAGENET_MEAN[0]) / IMAGENET_STD[0])
    logits, probabilities = blocks('docs/en/user_guides/export.md', 'onnx')
    for code, expected in ((logits, sigmoid(red)), (probabilities, 0.2 * red)):
        found = {}
        exec(code, found)
        assert found['soft_map'].shape == (30, 40)
        np.testing.assert_allclose(found['soft_map'], expected, atol=0.02)


@pytest.mark.parametrize(
    ('inputs', 'outputs'),
    [
        ([('x', [1, 3, 32, 32])], [('y', [1, 1000])]),
        ([('x', [1, 4, 32, 32])], [('y', [1, 1, 32, 32])]),
        ([('x', [1, 3, 32, 32])], [('y', [1, 1, 8, 8])]),
        ([('x', [1, 3, 32, 32]), ('points', [1, 3, 32, 32])], [('y', [1, 1, 32, 32])]),
        ([('x', [1, 3, 32, 32])], [('y', [1, 1, 32, 32]), ('z', [1, 1, 32, 32])]),
    ],
    ids=['classifier', 'four channels', 'smaller map', 'two inputs', 'two outputs'],
)
def test_models_with_other_inputs_or_outputs_are_rejected(write, inputs, outputs):
    # The outputs are constants: all that counts is what the model takes and gives.
    nodes = [
        helper.make_node(
            'Constant', [], [name], value=onnx.numpy_helper.from_array(np.zeros(shape, np.float32), f'{name}_value')
        )
        for name, shape in outputs
    ]
    values = [[helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in nodes] for nodes in (inputs, outputs)]
    path = write.save(helper.make_graph(nodes, 'other', *values))
    message = r'model\.onnx: not a BiRefNet: expected one input \(N, 3, H, W\).*found inputs x .* and outputs y '
    with pytest.raises(ValueError, match=message):
        OnnxBackend(path, CPU)


def test_providers(write):
    path = write()
    assert OnnxBackend(path, 'CPUExecutionProvider').providers == CPU
    assert OnnxBackend(path, [('CPUExecutionProvider', {})]).providers == CPU
    assert 'CPUExecutionProvider' in OnnxBackend(path).providers
    with pytest.raises(RuntimeError, match='this onnxruntime has no SurelyNotProvider; it has .*CPUExecutionProvider'):
        OnnxBackend(path, ['SurelyNotProvider', 'CPUExecutionProvider'])


def test_silent_fallback_to_the_cpu_is_an_error(write, monkeypatch):
    """onnxruntime itself goes on with the CPU where CUDA is built in but cannot be used."""
    path = write()
    monkeypatch.setattr(onnxruntime, 'get_available_providers', lambda: ['CUDAExecutionProvider', *CPU])
    with pytest.raises(RuntimeError, match='onnxruntime cannot use CUDAExecutionProvider'):
        OnnxBackend(path, ['CUDAExecutionProvider'])
    with pytest.warns(UserWarning, match='cannot use CUDAExecutionProvider.*runs on the CPU'):
        backend = OnnxBackend(path)
    assert backend.providers == CPU


@pytest.mark.skipif(not Path('/proc/self/task').exists(), reason='counts the threads of the process')
def test_threads(write, monkeypatch):
    """Those of the argument, else those of OpenMP; the thread that calls is one of them."""
    path, started = write(), []
    for variable, threads in (('4', None), ('3,2', None), ('4', 2), ('1', None)):
        monkeypatch.setenv('OMP_NUM_THREADS', variable)
        before = len(list(Path('/proc/self/task').iterdir()))
        backend = OnnxBackend(path, CPU, threads=threads)
        started.append(len(list(Path('/proc/self/task').iterdir())) - before)
        del backend
    assert started == [3, 2, 1, 0]
    with pytest.raises(ValueError, match='threads=0, must be 1 or more'):
        OnnxBackend(path, CPU, threads=0)


def test_without_onnxruntime(write, monkeypatch):
    path = write()
    monkeypatch.setitem(sys.modules, 'onnxruntime', None)
    with pytest.raises(ImportError, match=r'model\.onnx: ONNX models need onnxruntime. Fix: pip install onnxruntime'):
        OnnxBackend(path)


WITHOUT_TORCH = """
import sys

class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in ('torch', 'torchvision', 'mmcv', 'mmengine', 'mmseg', 'mmpretrain', 'onnx'):
            raise ModuleNotFoundError(f'{name} is hidden', name=name)

sys.meta_path.insert(0, Hide())

import numpy as np
import mmbirefnet.apis
from mmbirefnet.apis import BiRefNetInferencer
from mmbirefnet.cli.main import main

inferencer = BiRefNetInferencer('model.onnx')
assert type(inferencer.backend).__name__ == 'OnnxBackend'
np.save('map.npy', inferencer('image.png', 'cut', save=['mask', 'cutout']))
sys.exit(main(['cut', 'image.png', '-o', 'by_command.png', '--checkpoint', 'model.onnx', '--save', 'mask']))
"""


@pytest.mark.soak
def test_cuts_out_without_torch(trained_checkpoint, tmp_path):
    """The exported model gives the maps of its checkpoint on a machine that has no torch."""
    from mmbirefnet.apis.torch_backend import TorchBackend

    pytest.importorskip('mmbirefnet.deploy.program', exc_type=ImportError)  # torch < 2.6
    from mmbirefnet.deploy.onnx import export_onnx

    export_onnx(TorchBackend(*trained_checkpoint, 'cpu', fuse=False).model, tmp_path / 'model.onnx', (96, 96))
    sample = make_sample(0, 'DIS-VD', 1, (120, 150))
    Image.fromarray(sample.image[..., ::-1]).save(tmp_path / 'image.png')
    (tmp_path / 'run.py').write_text(WITHOUT_TORCH)
    done = subprocess.run(
        [sys.executable, 'run.py'], cwd=tmp_path, env={'PYTHONPATH': str(ROOT)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr

    expected = BiRefNetInferencer(*trained_checkpoint, device='cpu')(sample.image)
    assert expected.std() > 0.1
    np.testing.assert_allclose(np.load(tmp_path / 'map.npy'), expected, rtol=0, atol=1e-3)
    mask = np.asarray(Image.open(tmp_path / 'by_command.png'))
    np.testing.assert_allclose(mask / 255, expected, rtol=0, atol=2 / 255)
    assert np.array_equal(np.asarray(Image.open(tmp_path / 'cut/mask/image.png')), mask)
    cutout = Image.open(tmp_path / 'cut/cutout/image.png')
    assert cutout.mode == 'RGBA'
    np.testing.assert_allclose(np.asarray(cutout)[..., 3] / 255, expected, rtol=0, atol=2 / 255)
