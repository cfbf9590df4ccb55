"""What an ONNX file of this project says about itself, in the model's ``metadata_props``."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields

FORMAT_VERSION = 1
PREFIX = 'mmbirefnet.'
OUTPUTS = ('logits', 'probabilities')
CHANNEL_ORDERS = ('RGB', 'BGR')
# Of the RGB channels of ImageNet, in gray levels 0 to 255.
IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)


@dataclass(frozen=True)
class OnnxMetadata:
    """How to feed a model and to read what it gives.

    Args:
        input_size: (H, W) in pixels; with ``dynamic_size`` that of the training, which predictions are best at.
        mean: Of the three channels in ``channel_order``, in gray levels 0 to 255: subtracted from the image.
        std: Likewise: what the difference is divided by.
        channel_order: ``'RGB'`` or ``'BGR'``.
        output: ``'logits'``, to be put through a sigmoid, or ``'probabilities'``.
        deform_conv: How deformable convolutions are written: ``'standard'`` or ``'gridsample'``.
        config: Name of the config that the model was built from.
        checkpoint: Name of the file its weights are from.
        mmbirefnet_version: Version that wrote the file.
        format_version: Of these properties.
        dynamic_size: Whether the model takes any height and width, multiples of 32. Files written before there was
            this property take one size.
    """

    input_size: tuple[int, int]
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    channel_order: str = 'RGB'
    output: str = 'logits'
    deform_conv: str = ''
    config: str = ''
    checkpoint: str = ''
    mmbirefnet_version: str = ''
    format_version: int = FORMAT_VERSION
    dynamic_size: bool = False

    def to_props(self) -> dict[str, str]:
        """The properties, ``{'mmbirefnet.<field>': text}``; numbers and sequences as JSON."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {PREFIX + name: value if isinstance(value, str) else json.dumps(value) for name, value in values.items()}

    @classmethod
    def from_props(cls, props: Mapping[str, str]) -> OnnxMetadata | None:
        """Read the properties of a model; ``None`` where there are none of this project's.

        Raises:
            ValueError: If they are of a newer format, or damaged.
        """
        version = props.get(f'{PREFIX}format_version')
        if version is None:
            return None
        if not re.fullmatch('[0-9]{1,9}', version) or int(version) > FORMAT_VERSION:
            raise ValueError(
                f'its metadata have format version {version!r}, this mmbirefnet reads up to {FORMAT_VERSION}: '
                'update mmbirefnet, or export the model again'
            )
        try:
            values = {}
            props = {f'{PREFIX}dynamic_size': 'false', **props}
            for field in fields(cls):
                text = (
                    props.get(PREFIX + field.name, 'false')
                    if field.name == 'dynamic_size'
                    else props[PREFIX + field.name]
                )
                value = text if field.type == 'str' else json.loads(text)
                values[field.name] = tuple(value) if isinstance(value, list) else value
            meta = cls(**values)
            for name, length in (('input_size', 2), ('mean', 3), ('std', 3)):
                numbers = getattr(meta, name)
                if len(numbers) != length or not all(math.isfinite(number) for number in numbers):
                    raise ValueError(f'{name} must be {length} numbers, found {numbers}')
            if not all(isinstance(side, int) and side % 32 == 0 and 0 < side <= 2**15 for side in meta.input_size):
                raise ValueError(
                    f'input_size={meta.input_size}, must be (height, width) in multiples of 32 up to {2**15}'
                )
            if not all(number > 0 for number in meta.std):
                raise ValueError(f'std={meta.std}, must be more than 0')
            if not isinstance(meta.dynamic_size, bool):
                raise ValueError(f'dynamic_size={meta.dynamic_size}, must be true or false')
        except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
            raise ValueError(f'its metadata are damaged ({error}): export the model again') from error
        if meta.output not in OUTPUTS or meta.channel_order not in CHANNEL_ORDERS:
            raise ValueError(f'its metadata name an unknown output {meta.output!r} or order {meta.channel_order!r}')
        return meta
