"""Data sets by folder (``im/``, ``gt/``) and their transforms."""

import mmbirefnet.registry  # noqa: F401  checks the packages before they are imported

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
from .mixed import MixedDataset
from .samplers import DynamicSizeBatchSampler, ShareSampler
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
    'MixedDataset',
    'ShareSampler',
]
