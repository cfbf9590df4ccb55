"""Data sets by folder (``im/``, ``gt/``) and their transforms."""

import mmbirefnet.needs_openmmlab  # noqa: F401

from .benchmarks import (
    DIS5K_CLASSES,
    CODDataset,
    DIS5KDataset,
    GeneralDataset,
    HRSODDataset,
    MattingDataset,
)
from .dichotomous import DichotomousDataset
from .folder import FolderDataset
from .samplers import DynamicSizeBatchSampler
from .transforms import *  # noqa: F403

__all__ = [
    'DIS5K_CLASSES',
    'CODDataset',
    'DIS5KDataset',
    'DichotomousDataset',
    'DynamicSizeBatchSampler',
    'FolderDataset',
    'GeneralDataset',
    'HRSODDataset',
    'MattingDataset',
]
