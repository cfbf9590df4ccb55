"""High-resolution salient object detection: DUTS, HRSOD, UHRSD, DAVIS-S, DUT-OMRON."""

from mmbirefnet.registry import DATASETS

from .dichotomous import DichotomousDataset


@DATASETS.register_module()
class HRSODDataset(DichotomousDataset):
    """Salient objects; trained on any combination of ``TR-DUTS``, ``TR-HRSOD`` and ``TR-UHRSD``."""

    FAMILY = 'HRSOD'
    SET_SIZES = {
        'TR-DUTS': 10553,
        'TR-HRSOD': 1610,
        'TR-UHRSD': 4932,
        'DAVIS-S': 92,
        'TE-HRSOD': 400,
        'TE-UHRSD': 988,
        'DUT-OMRON': 5168,
        'TE-DUTS': 5019,
    }
