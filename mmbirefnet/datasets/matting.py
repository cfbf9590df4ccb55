"""Image matting: P3M-10k, AM-2k, AIM-500, Distinctions-646, Human-2k, HIM2K, PPM-100 and their like."""

from mmbirefnet.registry import DATASETS

from .dichotomous import DichotomousDataset


@DATASETS.register_module()
class MattingDataset(DichotomousDataset):
    """Objects with alpha mattes: soft masks, kept as they are."""

    FAMILY = 'Matting'
    SET_SIZES = {
        'TR-P3M-10k': 9421,
        'TE-P3M-500-NP': 500,
        'TE-P3M-500-P': 500,
        'TR-AM-2k': 1800,
        'TE-AM-2k': 200,
        'AIM-500': 500,
        'PPM-100': 100,
    }
