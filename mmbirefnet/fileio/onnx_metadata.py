"""Metadata of our ONNX files, in ``metadata_props`` of the model."""

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
# Mean and standard deviation of the RGB channels of ImageNet, in gray levels 0 to 255.
IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)


@dataclass(frozen=True)
class OnnxMetadata:
    """Description of the input and output of an exported model.

    Args:
        input_size: (H, W) in pixels; with ``dynamic_size``, the size of the training, at which predictions are best.
        mean: Mean of the three channels in ``channel_order``, in gray levels 0 to 255.
        std: Standard deviation of the three channels, likewise.
        channel_order: ``'RGB'`` or ``'BGR'``.
        output: ``'logits'``, which need a sigmoid, or ``'probabilities'``.
        deform_conv: Form of the deformable convolutions: ``'standard'`` or ``'gridsample'``.
        config: Name of the config of the model.
        checkpoint: Name of the file of the weights.
        mmbirefnet_version: Version that wrote the file.
        format_version: Version of this metadata.
        dynamic_size: Whether the model accepts any height and width in multiples of 32. Older files, without this
            property, accept one size.
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
        """Convert to properties, ``{'mmbirefnet.<field>': text}``, with numbers and sequences as JSON."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {PREFIX + name: value if isinstance(value, str) else json.dumps(value) for name, value in values.items()}

    @classmethod
    def from_props(cls, props: Mapping[str, str]) -> OnnxMetadata | None:
        """Read the properties of a model; ``None`` if it has none of this project.

        Raises:
            ValueError: If they have a newer format, or are damaged.
        """
        version = props.get(f'{PREFIX}format_version')
        if version is None:
            return None
        if not re.fullmatch('[0-9]{1,9}', version) or int(version) > FORMAT_VERSION:
            raise ValueError(
                f'its metadata has format version {version!r}, this mmbirefnet reads up to {FORMAT_VERSION}. Fix: '
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
            raise ValueError(f'its metadata is damaged ({error}). Fix: export the model again') from error
        if meta.output not in OUTPUTS or meta.channel_order not in CHANNEL_ORDERS:
            raise ValueError(f'its metadata has an unknown output {meta.output!r} or order {meta.channel_order!r}')
        return meta
