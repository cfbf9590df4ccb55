"""Transforms that keep soft masks soft, and the reference's augmentations.

All draw from NumPy's global random state, which mmengine seeds in every worker.
"""

from .formatting import PackDichotomousInputs
from .geometric import RandomCenterCrop, RandomRotate, Resize, ResizeToBatch
from .loading import LoadImage, LoadMask
from .photometric import ColorEnhance, SaltAndPepper, SyntheticBackground

__all__ = [
    'ColorEnhance',
    'LoadImage',
    'LoadMask',
    'PackDichotomousInputs',
    'RandomCenterCrop',
    'RandomRotate',
    'Resize',
    'ResizeToBatch',
    'SaltAndPepper',
    'SyntheticBackground',
]
