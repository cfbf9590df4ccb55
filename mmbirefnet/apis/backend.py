"""Interface between the inferencer and the model, and the choice of the implementation."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

import numpy as np

from mmbirefnet.zoo.catalog import CHECKPOINT_SUFFIXES
from mmbirefnet.zoo.download import is_model_name
from mmbirefnet.zoo.weights import find_weights


class Backend(Protocol):
    """Predicts foreground probabilities of a batch of images.

    Attributes:
        name: Name in messages.
        input_size: (height, width) in pixels that the model was trained at.
        fixed_size: Whether the model accepts only images of ``input_size``.
        max_batch: Largest batch; ``None`` for no limit.
        takes_guide: Whether images may have a coarse mask (gray levels) as a fourth channel. Optional; without the
            attribute they may not.
    """

    name: str
    input_size: tuple[int, int]
    fixed_size: bool
    max_batch: int | None

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Predict.

        Args:
            images: uint8 RGB ``(N, H, W, 3)``, H and W multiples of 32.

        Returns:
            Probability of the foreground, float32 ``(N, H, W)``.
        """
        ...


def is_checkpoint(model: str | os.PathLike) -> bool:
    """Whether this is a checkpoint, its folder, or the name of a model, instead of a config."""
    path = Path(model)
    return (
        path.suffix.lower() in CHECKPOINT_SUFFIXES
        or path.is_dir()
        or (not path.exists() and is_model_name(os.fspath(model)))
    )


def make_backend(model, weights, device, dtype, fuse, providers, crop_order) -> Backend:
    """Load a model for :class:`~mmbirefnet.apis.BiRefNetInferencer`, which has these arguments."""
    if model is None:
        weights = find_weights(weights)
        if weights.suffix == '.onnx':
            model = weights
    if isinstance(model, (str, os.PathLike)) and Path(model).suffix == '.onnx':
        from .onnx_backend import OnnxBackend

        if dtype != 'float32':
            raise ValueError(f'dtype={dtype!r}: the dtype of an ONNX model is fixed ({model}). Fix: leave out dtype')
        if providers is None and device is not None:
            providers = _providers(device)
        return OnnxBackend(model, providers)
    import mmbirefnet.registry  # noqa: F401  checks the installed packages

    from .torch_backend import TorchBackend

    return TorchBackend(model, weights, device, dtype, fuse, crop_order)


def _providers(device) -> list[str]:
    if str(device) == 'cpu':
        return ['CPUExecutionProvider']
    if str(device) in ('cuda', 'cuda:0'):
        return ['CUDAExecutionProvider', 'CPUExecutionProvider']
    raise ValueError(f'device={str(device)!r}: an ONNX model runs on cpu or cuda. Fix: set providers=…')
