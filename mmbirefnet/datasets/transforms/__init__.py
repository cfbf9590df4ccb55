"""Transforms that keep soft masks soft: the augmentations of the reference, and more for fine-tuning.

All use NumPy's global random state, which mmengine seeds in every worker.
"""

from .coarse_mask import CoarseMask
from .copy_paste import CopyPaste
from .crops import EdgeCrop, RandomZoomCrop
from .formatting import PackDichotomousInputs
from .geometric import RandomCenterCrop, RandomRotate, Resize, ResizeToBatch
from .loading import LoadImage, LoadMask
from .photometric import BlurAndCompress, ColorEnhance, SaltAndPepper, SyntheticBackground

__all__ = [
    'BlurAndCompress',
    'CoarseMask',
    'ColorEnhance',
    'CopyPaste',
    'EdgeCrop',
    'LoadImage',
    'LoadMask',
    'PackDichotomousInputs',
    'RandomCenterCrop',
    'RandomRotate',
    'RandomZoomCrop',
    'Resize',
    'ResizeToBatch',
    'SaltAndPepper',
    'SyntheticBackground',
]
