"""Inference: soft maps and cut-outs of pictures.

Importing it imports neither torch nor the OpenMMLab packages: with an ONNX model none of them is needed.
"""

import importlib

_MODULES = {
    'BiRefNetInferencer': 'inferencer',
    'Picture': 'pictures',
    'Prediction': 'inferencer',
    'Settings': 'settings',
    'estimate_foreground': 'foreground',
    'read_picture': 'pictures',
}
__all__ = [*_MODULES]


def __getattr__(name: str):
    if name in _MODULES:
        return getattr(importlib.import_module(f'.{_MODULES[name]}', __name__), name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
