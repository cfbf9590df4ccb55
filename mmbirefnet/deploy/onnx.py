"""Export to ONNX."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch

try:
    import onnx
    import onnxruntime
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.calibrate import MinMaxCalibrater, save_tensors_data
    from onnxruntime.quantization.shape_inference import quant_pre_process
    from onnxscript import optimizer

    from .onnx_operators import translations
except ModuleNotFoundError as error:
    raise ImportError(f"{error.name} is missing: export to ONNX needs pip install 'mmbirefnet[export]'") from error

from mmbirefnet.fileio.onnx_metadata import OnnxMetadata
from mmbirefnet.models import BiRefNet

from .program import INPUT, OUTPUT, describe, trace
from .verify import model_input

# First opset with the operators of each form that the exporter can write.
LOWEST_OPSETS = {'standard': 19, 'gridsample': 18}
WEIGHTS = ('float32', 'float16', 'int8')
QUANTIZED = ('Conv', 'Gemm', 'MatMul')


def export_onnx(
    model: BiRefNet,
    path: str | os.PathLike,
    size: tuple[int, int],
    batch_size: int | None = 1,
    deform_conv: str = 'gridsample',
    opset: int | None = None,
    dynamic_size: bool = False,
    weights: str = 'float32',
    calibration: Iterable[np.ndarray] = (),
    **names: str,
) -> OnnxMetadata:
    """Write the fused model to an ONNX file with metadata for its use.

    The input ``input_image`` is a normalized float32 image ``(N, 3, H, W)``, and the output ``output_image`` the logits
    ``(N, 1, H, W)``, as in the released BiRefNet files, so programs for those also run these.

    Args:
        model: Trained model; it is not changed.
        path: File to write, which includes the weights.
        size: (H, W) in pixels, multiples of 32.
        batch_size: Number of images; ``None`` for any.
        deform_conv: ``'gridsample'`` for ``GridSample`` and ``Conv``, or ``'standard'`` for the operator
            ``DeformConv``, which some runtimes lack.
        opset: Version of the operators; by default the lowest of the form, 18 or 19.
        dynamic_size: Whether the file accepts any height and width in multiples of 32; ``size`` is then the default.
            Only for models with ``SwinTransformer`` of this project.
        weights: ``'float32'``; ``'float16'`` for half the file size, with kernels stored in half precision and float32
            arithmetic; or ``'int8'``, see :func:`quantize`.
        calibration: For ``'int8'``, images that are typical of the use, RGB, uint8 ``(H, W, 3)`` of the exported size.
        **names: ``config`` and ``checkpoint``, for the metadata.

    Returns:
        The metadata of the file.

    Raises:
        TypeError: If ``model`` is not a BiRefNet.
        ValueError: If an argument is invalid.
    """
    path = Path(path)
    lowest = LOWEST_OPSETS.get(deform_conv, 0)
    opset = lowest if opset is None else opset
    if opset < lowest:
        raise ValueError(f'deform_conv={deform_conv!r} needs opset {lowest} or later, got {opset}')
    if weights not in WEIGHTS:
        raise ValueError(f'weights must be one of {", ".join(map(repr, WEIGHTS))}, got {weights!r}')
    calibration = list(calibration)
    if (weights == 'int8') != bool(calibration):
        raise ValueError(f'calibration: int8 needs images, the others none; got {len(calibration)} for {weights}')
    if dynamic_size and deform_conv not in LOWEST_OPSETS:
        raise ValueError(f'deform_conv must be one of {", ".join(map(repr, LOWEST_OPSETS))}, got {deform_conv!r}')
    program = trace(model, size, batch_size, deform_conv, dynamic_size)
    exported = torch.onnx.export(
        program,
        dynamo=True,
        opset_version=opset,
        input_names=[INPUT],
        output_names=[OUTPUT],
        dynamic_shapes=None if batch_size is not None else {INPUT: {0: torch.export.Dim('batch')}},
        custom_translation_table=translations(deform_conv),
        optimize=False,  # it takes three times as long as all the rest, and runtimes optimize the file, too
        verbose=False,
    )
    if not dynamic_size:  # traced sizes would become constants
        optimizer.fold_constants(exported.model, onnx_shape_inference=True)
        optimizer.remove_unused_nodes(exported.model)
    proto = exported.model_proto
    if dynamic_size:
        del proto.graph.value_info[:]
        for value in (*proto.graph.input, *proto.graph.output):
            for axis, name in ((2, 'height'), (3, 'width')):
                value.type.tensor_type.shape.dim[axis].dim_param = name
    if weights == 'float16':
        _store_as_float16(proto.graph)
    # The exporter adds stack traces with local paths to the file.
    for item in (*proto.graph.node, *proto.graph.input, *proto.graph.output, *proto.graph.value_info, proto.graph):
        del item.metadata_props[:]
        item.doc_string = ''
    if weights == 'int8':
        copies = batch_size or 1
        proto = quantize(proto, (model_input(model, image[None].repeat(copies, 0)).numpy() for image in calibration))
    metadata = describe(model, size, deform_conv, dynamic_size=dynamic_size, **names)
    onnx.helper.set_model_props(proto, metadata.to_props())
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(proto, path)
    return metadata


def _store_as_float16(graph: onnx.GraphProto) -> None:
    """Store kernels (float32 tensors of two or more axes) as float16, each with a ``Cast`` to float32."""
    casts = []
    for tensor in graph.initializer:
        if tensor.data_type != onnx.TensorProto.FLOAT or len(tensor.dims) < 2:
            continue
        values, name = onnx.numpy_helper.to_array(tensor), tensor.name
        if np.abs(values).max(initial=0) > np.finfo(np.float16).max:  # would overflow
            continue
        tensor.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float16), f'{name}_float16'))
        casts.append(onnx.helper.make_node('Cast', [tensor.name], [name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


class _Inputs(CalibrationDataReader):
    def __init__(self, inputs: Iterable[np.ndarray]) -> None:
        self.inputs: Iterator[np.ndarray] = iter(inputs)

    def get_next(self) -> dict[str, np.ndarray] | None:
        values = next(self.inputs, None)
        return None if values is None else {INPUT: values}


class _Calibrator(MinMaxCalibrater):
    """Measures the range of each map right after the map is computed, and frees the map after its last use.

    With onnxruntime's own settings, all maps of an image are kept: five times the memory for Swin-T at 1024x1024.
    """

    def create_inference_session(self) -> None:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED
        options.enable_mem_pattern = options.enable_cpu_mem_arena = False
        self.infer_session = onnxruntime.InferenceSession(
            self.augmented_model_path, options, providers=self.execution_providers
        )


def quantize(proto: onnx.ModelProto, inputs: Iterable[np.ndarray]) -> onnx.ModelProto:
    """Compute the convolutions and matrix products of a model in 8-bit integers.

    It uses onnxruntime's static quantization, with nodes ``QuantizeLinear`` and ``DequantizeLinear`` around each
    operator. Kernels become int8 with a scale per output channel, and maps become uint8 in the range that they have for
    ``inputs``. Norms, softmax, and the sampling of deformable convolutions stay in float32. Kernels use 7 of the 8
    bits, since with 8 bits, sums of products overflow on x86 CPUs without VNNI.

    Args:
        proto: The model in float32.
        inputs: Normalized images for calibration, float32 ``(N, 3, H, W)``.

    Returns:
        The quantized model.
    """
    with tempfile.TemporaryDirectory() as folder:
        names = ('source', 'prepared', 'measuring', 'quantized')
        source, prepared, measuring, quantized = (Path(folder, f'{name}.onnx') for name in names)
        onnx.save(proto, source)
        quant_pre_process(source, prepared, skip_symbolic_shape=True)  # products without shapes are not quantized
        calibrator = _Calibrator(prepared, QUANTIZED, os.fspath(measuring))
        calibrator.augment_graph()
        calibrator.create_inference_session()
        calibrator.collect_data(_Inputs(inputs))
        ranges = Path(folder, 'ranges.json')
        save_tensors_data(calibrator.compute_data(), ranges)
        quantize_static(
            prepared,
            quantized,
            calibration_cache_path=ranges,
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(QUANTIZED),
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        return onnx.load(quantized)
