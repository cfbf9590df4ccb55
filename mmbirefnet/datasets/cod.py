"""Camouflaged object detection: COD10K, CAMO, CHAMELEON, NC4K."""

from mmbirefnet.registry import DATASETS

from .dichotomous import DichotomousDataset


@DATASETS.register_module()
class CODDataset(DichotomousDataset):
    """Camouflaged objects; trained on ``TR-COD10K`` and ``TR-CAMO`` together."""

    FAMILY = 'COD'
    SET_SIZES = {'TR-COD10K': 3040, 'TR-CAMO': 1000, 'CHAMELEON': 76, 'NC4K': 4121, 'TE-CAMO': 250, 'TE-COD10K': 2026}
