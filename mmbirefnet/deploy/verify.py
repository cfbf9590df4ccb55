"""Compare predictions and time of an exported model with those of the PyTorch model."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mmbirefnet.models import BiRefNet


class Comparison(NamedTuple):
    """Results of both models for one image."""

    logits: float
    """Largest absolute difference of the logits."""
    probabilities: float
    """Largest absolute difference of the probabilities."""
    mean_probabilities: float
    """Mean absolute difference of the probabilities."""
    torch_seconds: float
    exported_seconds: float


def load_program(path: str | os.PathLike) -> Callable[[np.ndarray], np.ndarray]:
    """Load a model exported by ``torch.export``.

    Args:
        path: The ``.pt2`` file.

    Returns:
        A function of uint8 RGB images ``(N, H, W, 3)`` that returns logits ``(N, H, W)``.
    """
    extra = {'mmbirefnet.json': ''}
    program = torch.export.load(path, extra_files=extra)
    module, (example,) = program.module(), program.example_inputs[0]
    batch_size = 1 if program.range_constraints else len(example)
    use = json.loads(extra['mmbirefnet.json'])
    mean, std = (torch.tensor(use[name]).view(3, 1, 1) for name in ('mean', 'std'))

    @torch.inference_mode()
    def logits(images: np.ndarray) -> np.ndarray:
        images = images if use['channel_order'] == 'RGB' else images[..., ::-1]
        x = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2)
        copies = ((x - mean) / std).repeat(batch_size, 1, 1, 1)  # of the one image
        return module(copies)[: len(images), 0].numpy()

    return logits


def model_input(model: BiRefNet, images: np.ndarray) -> Tensor:
    """Normalize uint8 RGB images ``(N, H, W, 3)`` with the data preprocessor of the model, to ``(N, 3, H, W)``."""
    bgr = [torch.from_numpy(np.ascontiguousarray(image[..., ::-1])).permute(2, 0, 1) for image in images]
    return model.data_preprocessor(dict(inputs=bgr))['inputs']


@torch.inference_mode()
def torch_logits(model: BiRefNet, images: np.ndarray) -> np.ndarray:
    """Compute the logits ``(N, H, W)`` of a model on the CPU for uint8 RGB images ``(N, H, W, 3)``."""
    return model(model_input(model, images), mode='tensor')[:, 0].numpy()


def compare(model: BiRefNet, exported: Callable[[np.ndarray], np.ndarray], image: np.ndarray) -> Comparison:
    """Run both models on an image.

    Args:
        model: The model in evaluation mode, on the CPU.
        exported: Result of :func:`load_program`, or ``OnnxBackend(path).outputs``.
        image: RGB, uint8, ``(H, W, 3)`` of the exported size.
    """
    start = time.perf_counter()
    expected = torch_logits(model, image[None])
    middle = time.perf_counter()
    found = exported(image[None])
    end = time.perf_counter()
    expected, found = (torch.from_numpy(values).double() for values in (expected, found))
    probabilities = (expected.sigmoid() - found.sigmoid()).abs()
    return Comparison(
        (expected - found).abs().max().item(),
        probabilities.max().item(),
        probabilities.mean().item(),
        middle - start,
        end - middle,
    )
