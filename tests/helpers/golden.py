"""Numbers of the reference implementation and the parameters they were made with.

No weights are stored: every parameter is drawn from a generator seeded with the CRC-32 of its name.
"""

import json
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

GOLDEN = Path(__file__).parents[1] / 'data' / 'golden'
CHANNELS = (192, 384, 768, 1536)


def draw(key: str, shape: tuple[int, ...], dtype: str = 'float32') -> Tensor:
    """The value of a parameter of the reference."""
    if dtype == 'int64':
        return torch.zeros(shape, dtype=torch.int64)
    rng = np.random.Generator(np.random.PCG64(zlib.crc32(key.encode())))
    if key.endswith('running_var'):
        value = rng.uniform(0.5, 1.5, shape)
    elif key.endswith('running_mean'):
        value = 0.1 * rng.standard_normal(shape)
    elif len(shape) >= 2:
        value = rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
        if 'relative_position_bias_table' in key:
            # The second draw of its generator.
            value = 0.5 * rng.standard_normal(shape)
    else:
        value = 0.1 * rng.standard_normal(shape) + key.endswith('weight')
    return torch.from_numpy(value).float()


def reference_shapes() -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and type of each parameter of the reference's Swin-T model."""
    return {key: tuple(value) for key, value in json.loads((GOLDEN / 'swin_t.keys.json').read_text()).items()}


def reference_state_dict(classifier: bool = False) -> dict[str, Tensor]:
    """Parameters of the reference's Swin-T model under its own names."""
    shapes = reference_shapes().items()
    return {key: draw(key, *value) for key, value in shapes if classifier or not key.startswith('cls_head')}


def without(state: dict, *words: str) -> dict:
    """Leave out the parameters whose names contain one of the words."""
    return {key: value for key, value in state.items() if not any(word in key for word in words)}


def with_one_value(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give all elements of a parameter its first value, so that files are small."""
    return {key: value.flatten()[0].clone().expand(value.shape) for key, value in state.items()}


def image(seed: int, n: int, height: int, width: int) -> Tensor:
    """Normalized images, ``(n, 3, height, width)``."""
    rng = np.random.Generator(np.random.PCG64(seed))
    return torch.from_numpy(rng.standard_normal((n, 3, height, width)).astype(np.float32))


def model_config(classifier: bool = False, arch: str | dict = 't', channels=CHANNELS, **head) -> dict:
    """BiRefNet as the golden numbers were made with; ``head`` changes the decode head."""
    return dict(
        type='mmbirefnet.BiRefNet',
        data_preprocessor=dict(
            type='SegDataPreProcessor',
            mean=[123.675, 116.28, 103.53],
            std=[58.395, 57.12, 57.375],
            bgr_to_rgb=True,
            size_divisor=32,
        ),
        backbone=dict(type='mmbirefnet.SwinTransformer', arch=arch),
        neck=dict(type='mmbirefnet.LocalizationModule', in_channels=channels, aux_classifier=classifier),
        decode_head={'type': 'mmbirefnet.BiRefHead', 'in_channels': channels, **head},
        test_cfg=dict(mode='whole'),
    )


def without_dropout(model: nn.Module) -> nn.Module:
    """Set all rates of dropout and drop path to 0."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0
        if type(module).__name__ == 'DropPath':
            module.drop_prob = 0
    return model
