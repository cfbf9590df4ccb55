"""All that helps to cut out any object: sets of every family, for models of general use."""

from mmbirefnet.registry import DATASETS

from .dichotomous import DichotomousDataset
from .dis5k import DIS5KDataset
from .hrsod import HRSODDataset
from .matting import MattingDataset


@DATASETS.register_module()
class GeneralDataset(DichotomousDataset):
    """Sets of DIS5K, HRSOD, matting and others, joined; they may stay in their families' folders."""

    FAMILY = 'General'
    OTHER_FAMILIES = ('DIS5K', 'HRSOD', 'Matting', 'COD')
    SET_SIZES = {**DIS5KDataset.SET_SIZES, **HRSODDataset.SET_SIZES, **MattingDataset.SET_SIZES}
