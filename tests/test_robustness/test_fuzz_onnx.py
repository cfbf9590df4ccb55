"""ONNX files that are broken: an error that names the file."""

import bad_files
import numpy as np
import pytest
from bad_files import outcome
from onnx import TensorProto, helper, numpy_helper

from mmbirefnet.apis import BiRefNetInferencer
from mmbirefnet.apis.onnx_backend import OnnxBackend
from mmbirefnet.fileio.onnx_metadata import OnnxMetadata

IMAGES = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), np.uint8)


def model(weight: float = 0.1, **shapes) -> bytes:
    """A convolution, with what this project's files say of themselves."""
    kernel = numpy_helper.from_array(np.full(shapes.pop('w', (1, 3, 1, 1)), weight, np.float32), 'w')
    shapes = dict(input_image=(1, 3, 64, 64), output_image=(1, 1, 64, 64)) | shapes
    inputs, outputs = (
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shapes[name])]
        for name in ('input_image', 'output_image')
    )
    nodes = [helper.make_node('Conv', ['input_image', 'w'], ['output_image'])]
    graph = helper.make_graph(nodes, 'graph', inputs, outputs, [kernel])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 18)], ir_version=9)
    helper.set_model_props(made, OnnxMetadata((64, 64)).to_props())
    return made.SerializeToString()


def predict(path):
    return OnnxBackend(path, ['CPUExecutionProvider'])(IMAGES)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / 'a.onnx'
    path.write_bytes(model())
    assert predict(path).shape == (1, 64, 64)
    return path


def test_truncated_files_are_rejected(path):
    for case in bad_files.cut_off({'a.onnx': model()}):
        path.write_bytes(case.data)
        assert outcome(predict, path) is None, case.name


def test_corrupted_files(path):
    """An ONNX file has no checksum: a number may be another, but nothing else is raised than what is named."""
    for case in bad_files.changed({'a.onnx': model()}, 100):
        path.write_bytes(case.data)
        outcome(predict, path)


def test_no_model(tmp_path):
    for case in bad_files.wrong_kinds(('.onnx',)):
        assert outcome(predict, case.write(tmp_path)) is None, case.name


def test_models_of_other_shapes_are_rejected(path):
    for shapes in (
        dict(input_image=(1, 4, 64, 64), w=(1, 4, 1, 1)),
        dict(output_image=(1, 3, 64, 64), w=(3, 3, 1, 1)),
        dict(input_image=(1, 4, 64, 64)),
        dict(input_image=(3, 64, 64), output_image=(1, 64, 64)),
    ):
        path.write_bytes(model(**shapes))
        assert outcome(predict, path) is None, shapes


@pytest.mark.parametrize('weight', [np.nan, np.inf])
def test_nan_and_inf_predictions_are_errors(path, weight):
    """The error names the image, since nothing is known of the parameters in the file."""
    path.write_bytes(model(weight))
    inferencer = BiRefNetInferencer(path, providers=['CPUExecutionProvider'])
    with pytest.raises(ValueError, match=r'inputs\[0\]: a predicts NaN or Inf'):
        inferencer(IMAGES[0])
