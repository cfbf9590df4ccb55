"""Metadata of exported models that were changed by others."""

import pytest

from mmbirefnet.fileio.onnx_metadata import OnnxMetadata


def changed(**texts):
    props = OnnxMetadata(input_size=(64, 32)).to_props()
    return props | {f'mmbirefnet.{name}': text for name, text in texts.items()}


def test_round_trip():
    assert OnnxMetadata.from_props(changed()) == OnnxMetadata(input_size=(64, 32))
    assert OnnxMetadata.from_props({}) is None


@pytest.mark.parametrize(
    'texts',
    [
        dict(format_version='²'),
        dict(format_version='9' * 5000),
        dict(input_size='[' * 5000),
        dict(input_size='[1.5, 2]'),
        dict(input_size='[0, 2]'),
        dict(input_size='[1000000000, 1000000000]'),
        dict(input_size='[true, 32]'),
        dict(input_size='[33, 64]'),
        dict(std='[-1, 1, 1]'),
        dict(std='[1e999, 1, 1]'),
        dict(dynamic_size='7'),
        dict(input_size='[-1, 2]'),
        dict(input_size='["64", "32"]'),
        dict(input_size='7'),
        dict(mean='[NaN, 0, 0]'),
        dict(mean=f'[1{"0" * 400}, 0, 0]'),
        dict(mean='{"a": 1}'),
        dict(std='[0, 1, 1]'),
        dict(std='[Infinity, 1, 1]'),
    ],
)
def test_damaged(texts):
    with pytest.raises(ValueError, match='its metadata (is damaged|has format version)'):
        OnnxMetadata.from_props(changed(**texts))
