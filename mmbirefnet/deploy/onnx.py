"""Export to ONNX."""

from __future__ import annotations

import os
from pathlib import Path

import torch

try:
    import onnx
    from onnxscript import opset19
except ModuleNotFoundError as error:
    raise ImportError(f"{error.name} is missing: export to ONNX needs pip install 'mmbirefnet[export]'") from error

from mmbirefnet.fileio.onnx_metadata import OnnxMetadata
from mmbirefnet.models import BiRefNet

from .program import INPUT, OUTPUT, describe, trace

# The first with the operators that each form needs and the exporter writes.
LOWEST_OPSETS = {'standard': 19, 'gridsample': 18}


def _deform_conv(x, weight, offset, mask, stride, padding, dilation, groups, deform_groups):
    """ONNX's name for the operator (opset 19)."""
    return opset19.DeformConv(
        x,
        weight,
        offset,
        None,
        mask,
        kernel_shape=list(weight.shape)[2:],
        strides=list(stride),
        pads=[*padding, *padding],
        dilations=list(dilation),
        group=groups,
        offset_group=deform_groups,
    )


TRANSLATIONS = {torch.ops.mmbirefnet.deform_conv2d.default: _deform_conv}


def export_onnx(
    model: BiRefNet,
    path: str | os.PathLike,
    size: tuple[int, int],
    batch_size: int | None = 1,
    deform_conv: str = 'gridsample',
    opset: int | None = None,
    **names: str,
) -> OnnxMetadata:
    """Write the fused model to an ONNX file, which carries how to use it.

    Its input ``input_image`` is a normalised float32 image ``(N, 3, H, W)``, its output ``output_image`` the logits
    ``(N, 1, H, W)``, as of the released BiRefNet files: what runs those runs these.

    Args:
        model: Trained model; it is not changed.
        path: File to write; it holds the weights too.
        size: (H, W) in pixels, multiples of 32.
        batch_size: Number of images; ``None`` for any.
        deform_conv: ``'gridsample'`` for ``GridSample`` and ``Conv``, or ``'standard'`` for the operator
            ``DeformConv``, which not every runtime has.
        opset: Version of the operators; by default the lowest of the form, 18 or 19.
        **names: ``config`` and ``checkpoint``, for the metadata.

    Returns:
        The metadata written.

    Raises:
        TypeError: If it is no BiRefNet.
        ValueError: If an argument is none of those above.
    """
    path = Path(path)
    lowest = LOWEST_OPSETS.get(deform_conv, 0)
    opset = lowest if opset is None else opset
    if opset < lowest:
        raise ValueError(f'deform_conv={deform_conv!r} needs opset {lowest} or later, got {opset}')
    program = trace(model, size, batch_size, deform_conv)
    proto = torch.onnx.export(
        program,
        dynamo=True,
        opset_version=opset,
        input_names=[INPUT],
        output_names=[OUTPUT],
        dynamic_shapes=None if batch_size is not None else {INPUT: {0: torch.export.Dim('batch')}},
        custom_translation_table=TRANSLATIONS,
        verbose=False,
    ).model_proto
    # The exporter's own notes hold stack traces with this machine's paths.
    for item in (*proto.graph.node, *proto.graph.input, *proto.graph.output, *proto.graph.value_info, proto.graph):
        del item.metadata_props[:]
        item.doc_string = ''
    metadata = describe(model, size, deform_conv, **names)
    onnx.helper.set_model_props(proto, metadata.to_props())
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(proto, path)
    return metadata
