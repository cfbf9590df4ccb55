"""Inference: predictions and cut-outs of images.

This module imports neither torch nor the OpenMMLab packages, since ONNX models need none of them.
"""

import importlib

_MODULES = {
    'BiRefNetInferencer': 'mmbirefnet.apis.inferencer',
    'LoadedImage': 'mmbirefnet.imaging.read',
    'LoadedSequence': 'mmbirefnet.imaging.read',
    'MaskInferencer': 'mmbirefnet.apis.masks',
    'Prediction': 'mmbirefnet.apis.inferencer',
    'Settings': 'mmbirefnet.imaging.settings',
    'compare': 'mmbirefnet.apis.comparison',
    'estimate_foreground': 'mmbirefnet.imaging.foreground',
    'load_frames': 'mmbirefnet.imaging.frames',
    'load_image': 'mmbirefnet.imaging.read',
    'remove_background': 'mmbirefnet.apis.cutout',
}
__all__ = [*_MODULES]


def __getattr__(name: str):
    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name]), name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
