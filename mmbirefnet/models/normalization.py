"""The normalization that a model expects, read from its data preprocessor."""

from __future__ import annotations

from typing import NamedTuple

import torch
from mmengine.model import BaseDataPreprocessor
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

from mmbirefnet.fileio.onnx_metadata import IMAGENET_MEAN, IMAGENET_STD


class Normalization(NamedTuple):
    """Normalization of 8-bit images: ``(image - mean) / std`` per channel."""

    mean: tuple[float, float, float]
    """Mean in gray levels 0 to 255, in ``channel_order``."""
    std: tuple[float, float, float]
    """Standard deviation, likewise."""
    channel_order: str
    """``'RGB'`` or ``'BGR'``."""


IMAGENET = Normalization(IMAGENET_MEAN, IMAGENET_STD, 'RGB')


def get_normalization(model: nn.Module) -> Normalization:
    """The normalization of a model's data preprocessor, which expects images in BGR.

    Without a data preprocessor, or with mmengine's base class (the default of a config that names none), it is
    ImageNet's in RGB, which the weights of BiRefNet are trained with.
    """
    preprocessor = getattr(model, 'data_preprocessor', None)
    if preprocessor is None or type(preprocessor) is BaseDataPreprocessor:
        return IMAGENET
    # mmengine and mmseg store the channel order under different, partly private names, so test it with a blue image.
    black, blue = (_preprocess(preprocessor, bgr) for bgr in ((0, 0, 0), (255, 0, 0)))
    mean, std = (
        tuple(torch.as_tensor(value, dtype=torch.float32).flatten().expand(3).tolist())
        for value in (getattr(preprocessor, 'mean', 0.0), getattr(preprocessor, 'std', 1.0))
    )
    return Normalization(mean, std, 'BGR' if black[0] != blue[0] else 'RGB')


def _preprocess(preprocessor: BaseDataPreprocessor, bgr: tuple[int, int, int]) -> Tensor:
    """The three input values of the model for one pixel."""
    pixel = torch.tensor(bgr, dtype=torch.uint8).view(3, 1, 1)
    # mmseg's preprocessor needs samples if it pads.
    return preprocessor(dict(inputs=[pixel], data_samples=[BaseDataElement()]))['inputs'][0, :, 0, 0]
