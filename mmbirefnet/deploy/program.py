"""Trace a BiRefNet to one graph for the exporters, and write ``torch.export`` files."""

from __future__ import annotations

import dataclasses
import json
import os

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from mmbirefnet.fileio.onnx_metadata import OnnxMetadata
from mmbirefnet.models import BiRefNet, GuidedBiRefNet
from mmbirefnet.models.normalization import get_normalization
from mmbirefnet.version import __version__

from .deform_conv_export import replace_deform_convs
from .dynamic_size import DynamicLogits
from .fuse import fuse

INPUT, OUTPUT = 'input_image', 'output_image'


class Logits(nn.Module):
    """A segmentor as a function of only normalized images."""

    def __init__(self, model: BiRefNet) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_image: Tensor) -> Tensor:
        """Compute the logits ``(N, 1, H, W)`` of normalized images ``(N, 3, H, W)``."""
        return self.model(input_image, mode='tensor')


def trace(
    model: BiRefNet, size: tuple[int, int], batch_size: int | None, deform_conv: str, dynamic_size: bool = False
) -> ExportedProgram:
    """Trace the fused model.

    Args:
        model: Trained model; it is not changed.
        size: (H, W) in pixels, multiples of 32.
        batch_size: Number of images; ``None`` for any.
        deform_conv: ``'standard'`` (one operator) or ``'gridsample'``, see :mod:`.deform_conv_export`.
        dynamic_size: Whether to trace operators for any size, for ONNX; ``size`` is then only the size of the trace.

    Returns:
        A program from normalized ``input_image (N, 3, H, W)`` to logits ``(N, 1, H, W)``.

    Raises:
        TypeError: If ``model`` is not a BiRefNet.
        ValueError: If the model has several output channels or a coarse mask as input, or an argument is invalid.
    """
    if any(side < 32 or side % 32 for side in size):
        raise ValueError(f'size must be multiples of 32, got {size[0]}x{size[1]}')
    if batch_size is not None and batch_size < 1:
        raise ValueError(f'batch_size must be at least 1, or None for any, got {batch_size}')
    if isinstance(model, GuidedBiRefNet):
        raise ValueError('GuidedBiRefNet cannot be exported: exported models take an image with three channels')
    fused = fuse(model)
    if fused.out_channels != 1:
        raise ValueError(f'only models with one output channel can be exported, this one has {fused.out_channels}')
    wrapper = DynamicLogits(fused) if dynamic_size else Logits(replace_deform_convs(fused, deform_conv))
    # A batch of one in the example would become a constant.
    example = torch.zeros(batch_size or 2, 3, *size, device=next(fused.parameters()).device)
    shapes = None if batch_size is not None else {INPUT: {0: torch.export.Dim('batch')}}
    # Without gradients, the model would compute in chunks and in place.
    with torch.enable_grad():
        return torch.export.export(wrapper.eval(), (example,), dynamic_shapes=shapes)


def describe(
    model: BiRefNet,
    size: tuple[int, int],
    deform_conv: str,
    config: str = '',
    checkpoint: str = '',
    dynamic_size: bool = False,
) -> OnnxMetadata:
    """Metadata of an exported file, from the data preprocessor of the model."""
    return OnnxMetadata(
        tuple(size),
        **get_normalization(model)._asdict(),
        deform_conv=deform_conv,
        config=config,
        checkpoint=checkpoint,
        mmbirefnet_version=__version__,
        dynamic_size=dynamic_size,
    )


def export_program(
    model: BiRefNet, path: str | os.PathLike, size: tuple[int, int], batch_size: int | None = 1, **names: str
) -> OnnxMetadata:
    """Write a model for ``torch.export.load``, which only needs torch: ``load(path).module()(images)``.

    Args:
        model, size, batch_size: See :func:`trace`.
        path: File to write, usually ``.pt2``. The result of :func:`describe` is its extra file ``mmbirefnet.json``.
        **names: ``config`` and ``checkpoint``, for the metadata.

    Raises:
        TypeError, ValueError: As in :func:`trace`.
    """
    metadata = describe(model, size, 'gridsample', **names)
    program = trace(model, size, batch_size, 'gridsample')
    torch.export.save(program, path, extra_files={'mmbirefnet.json': json.dumps(dataclasses.asdict(metadata))})
    return metadata
