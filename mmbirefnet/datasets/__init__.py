"""Data sets by folder (``im/``, ``gt/``) and their transforms."""

import mmbirefnet.needs_openmmlab  # noqa: F401

from .cod import CODDataset
from .dichotomous import DichotomousDataset
from .dis5k import DIS5K_CLASSES, DIS5KDataset
from .folder import FolderDataset
from .general import GeneralDataset
from .hrsod import HRSODDataset
from .lmdb_backend import LmdbUriBackend
from .matting import MattingDataset
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
    'LmdbUriBackend',
    'MattingDataset',
]
