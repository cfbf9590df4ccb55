"""Catalog of the released BiRefNet models: task, input size, configs, licenses and published scores.

This module imports neither torch nor the OpenMMLab packages. All scores are published ones; none was measured here.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

OWN_SIZE = 'own size'
SIDE_RANGE = (256, 2304)  # sides in the training of the models of dynamic size, multiples of 32
CHECKPOINT_SUFFIXES = ('.safetensors', '.pth', '.pt', '.bin', '.ckpt')
# Names of parameter files in a Hugging Face folder, in order of priority.
FOLDER_FILES = ('model.safetensors', 'pytorch_model.bin')
INDEX_SUFFIX = '.index.json'
SEVERAL_FILES = (
    'its parameters are in several files, which is not supported. Fix: load the model with transformers and save it '
    'with save_pretrained(FOLDER, max_shard_size="10GB")'
)


class Licence(NamedTuple):
    """Licenses of a released model."""

    code: str
    """License of the code of the model."""
    weights: str
    data: str
    """Terms of the training data, as far as they are known."""


class Score(NamedTuple):
    """Published scores of a model on one dataset."""

    dataset: str
    metrics: Mapping[str, float]
    """Values by the names of ``DichotomousMetric``."""
    source: str


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """A released model.

    Attributes:
        name: Name in this catalog; for models of the authors, the name of the Hugging Face repository.
        task: Task that it was trained for.
        backbone: Backbone, as in the names of the configs, such as ``swin-l``.
        size: Input size of the training, width x height in pixels, or ``'own size'`` for the size of each image.
        crop_order: Order of the crops in the channels of the inward reference, ``'rows'`` or ``'columns'``, expected
            from the date of the training; ``None`` if unknown.
        training_sets: Names of the training sets; empty if they are not published.
        scores: Published scores.
        repository: Hugging Face repository.
        file: File of the parameters in the repository.
        file_pattern: Case-insensitive regular expression for the names of the released files.
        sha256: SHA-256 of released files, if known.
        config: Config of this project with the same architecture and input size, below ``configs/``.
        finetune_config: Config that fine-tunes it on your own images, below ``configs/``.
        licence: Licenses of code, weights and data.
    """

    name: str
    task: str
    backbone: str
    size: str
    crop_order: str | None
    config: str
    finetune_config: str
    repository: str
    licence: Licence
    file_pattern: str
    file: str = 'model.safetensors'
    training_sets: tuple[str, ...] = ()
    scores: tuple[Score, ...] = ()
    sha256: tuple[str, ...] = ()

    @property
    def input_size(self) -> tuple[int, int] | str:
        """(height, width) of the training in pixels, or ``'image'`` for the size of each image."""
        if self.size == OWN_SIZE:
            return 'image'
        width, height = map(int, self.size.split('x'))
        return height, width

    @property
    def non_commercial(self) -> bool:
        """Whether the license of the weights excludes commercial use; ``licence.data`` may exclude it too."""
        return '-NC' in self.licence.weights


FINETUNE_CONFIGS = {
    'swin-l': 'birefnet/birefnet_swin-l_1xb2-20e_finetune-1024x1024.py',
    'swin-t': 'birefnet/birefnet_swin-t_1xb4-20e_finetune-1024x1024.py',
}
FINETUNE_MATTING = 'birefnet_matting/birefnet_swin-l_1xb2-20e_finetune-matting-1024x1024.py'
FINETUNE_HR = 'birefnet_hr/birefnet_swin-l_1xb2-20e_finetune-2048x2048.py'
FINETUNE_DYNAMIC = 'birefnet_dynamic/birefnet_swin-l_1xb2-20e_finetune-256x256-2304x2304.py'

DIS_TES = ('DIS-TE1', 'DIS-TE2', 'DIS-TE3', 'DIS-TE4')
GENERAL = (
    *('DIS-TR', *DIS_TES, 'TR-DUTS', 'TE-DUTS', 'TR-HRSOD', 'TE-HRSOD', 'TR-UHRSD', 'TE-UHRSD'),
    *('TR-HRS10K', 'TE-HRS10K', 'TR-P3M-10k', 'TE-P3M-500-P', 'TE-P3M-500-NP', 'TR-humans'),
)
HIGH_RESOLUTION = (
    *('AIM-500', 'DIS-TR', *DIS_TES, 'HIM2K', 'PPM-100', 'TR-HRS10K', 'TE-HRS10K', 'TE-Human-2k'),
    *('Human-2k_BG-20k', 'Distinctions-646_BG-20k', 'TR-AM-2k', 'TE-AM-2k', 'TR-HRSOD', 'TE-HRSOD'),
    *('TR-UHRSD', 'TE-UHRSD', 'TR-P3M-10k', 'TE-P3M-500-P', 'TE-P3M-500-NP', 'TR-humans'),
)
# Only images of at least 2560x1440, or with both sides above 0.8 of that.
LITE_2K = (
    *('DIS-TR', *DIS_TES, 'TR-HRS10K', 'TE-HRS10K', 'TR-UHRSD', 'TE-UHRSD', 'TR-P3M-10k', 'TE-P3M-500-P'),
    *('TR-humans', 'TR-AM-2k', 'TE-AM-2k', 'AIM-500', 'Human-2k_BG-20k', 'Distinctions-646_BG-20k', 'HIM2K', 'PPM-100'),
)
MATTING = (
    *('TR-P3M-10k', 'TE-P3M-500-P', 'TR-humans', 'TR-AM-2k', 'TE-AM-2k', 'AIM-500'),
    *('Human-2k_BG-20k', 'Distinctions-646_BG-20k', 'HIM2K', 'PPM-100'),
)

MIT = 'MIT'
DIS5K_TERMS = 'DIS5K: non-commercial'
P3M_TERMS = 'P3M-10k: research only'
MIXED_TERMS = f'{DIS5K_TERMS}; {P3M_TERMS}; check the terms of the other sets'
MATTING_TERMS = f'{P3M_TERMS}; check the terms of the other sets'
COD_TERMS = 'CAMO and COD10K: research only'
HRSOD_TERMS = 'check the terms of DUTS, HRSOD and UHRSD'
UNPUBLISHED = 'training data not published'

CARD = 'model card on Hugging Face'
README = "README of the authors' repository"
CARD_OR_README = f'{CARD} or {README}'
LAWDIS = 'table of the LawDIS paper, trained on DIS-TR'
SECOND_HAND = 'second-hand'


def _scores(dataset: str, source: str, **metrics: float) -> Score:
    return Score(dataset, metrics, source)


def _authors(name: str, task: str, backbone: str, size: str, crop_order: str, config: str, pattern: str, **more):
    return ModelInfo(
        name=name,
        task=task,
        backbone=backbone,
        size=size,
        crop_order=crop_order,
        config=config,
        finetune_config=more.pop('finetune_config', FINETUNE_CONFIGS[backbone]),
        repository=f'ZhengPeng7/{name}',
        licence=Licence(MIT, MIT, more.pop('data')),
        file_pattern=pattern,
        **more,
    )


_MODELS = (
    _authors(
        *('BiRefNet', 'general', 'swin-l', '1024x1024', 'columns'),
        'birefnet_general/birefnet_swin-l_8xb4-200e_general-1024x1024.py',
        'birefnet[-_]general-epoch_244',
        data=MIXED_TERMS,
        training_sets=GENERAL,
        scores=(_scores('DIS-VD', CARD_OR_README, maxFm=0.908, wFmeasure=0.877, MAE=0.034, Smeasure=0.912, HCE=1069),),
        sha256=('11341a6a1c12646627e8d28da025bfec8aad027929d377cbe8fd4759636cc77c',),  # the .pth of 885,082,437 bytes
    ),
    _authors(
        *('BiRefNet_lite', 'general', 'swin-t', '1024x1024', 'columns'),
        'birefnet_general/birefnet_swin-t_8xb4-200e_general-1024x1024.py',
        'general-bb_swin_v1_tiny-epoch_232',
        data=MIXED_TERMS,
        training_sets=GENERAL,
        scores=(_scores('DIS-VD', README, wFmeasure=0.830, Smeasure=0.882, HCE=1175),),
    ),
    _authors(
        *('BiRefNet_lite-2K', 'general', 'swin-t', '2560x1440', 'columns'),
        'birefnet_general/birefnet_swin-t_8xb4-250e_general-2560x1440.py',
        'lite-general-2K-epoch_232',
        finetune_config='birefnet_general/birefnet_swin-t_1xb2-20e_finetune-2560x1440.py',
        data=MIXED_TERMS,
        training_sets=LITE_2K,
        scores=(
            _scores('DIS-VD', CARD, maxFm=0.867, wFmeasure=0.831, MAE=0.045, Smeasure=0.879, meanEm=0.919, HCE=952),
        ),
    ),
    _authors(
        *('BiRefNet_512x512', 'general', 'swin-l', '512x512', 'rows'),
        'birefnet_general/birefnet_swin-l_8xb4-200e_general-512x512.py',
        'birefnet.*(epoch_216|512x512)',
        finetune_config='birefnet_general/birefnet_swin-l_1xb2-20e_finetune-512x512.py',
        data=UNPUBLISHED,
        scores=(
            _scores('DIS-VD', CARD, maxFm=0.879, wFmeasure=0.840, MAE=0.040, Smeasure=0.888, meanEm=0.931, HCE=1526),
        ),
    ),
    _authors(
        *('BiRefNet_HR', 'general', 'swin-l', '2048x2048', 'rows'),
        'birefnet_hr/birefnet_swin-l_8xb2-200e_general-2048x2048.py',
        'HR-general-epoch_130',
        finetune_config=FINETUNE_HR,
        data=MIXED_TERMS,
        training_sets=HIGH_RESOLUTION,
        scores=(_scores('DIS-VD', CARD_OR_README, maxFm=0.925, wFmeasure=0.894, MAE=0.026, Smeasure=0.927, HCE=881),),
    ),
    _authors(
        *('BiRefNet_HR-matting', 'matting', 'swin-l', '2048x2048', 'rows'),
        'birefnet_hr/birefnet_swin-l_8xb2-150e_matting-2048x2048.py',
        'HR-matting-epoch_135',
        finetune_config=FINETUNE_HR,
        data=MATTING_TERMS,
        scores=(
            _scores('TE-AM-2k', CARD, Smeasure=0.974, wFmeasure=0.988, MSE=0.002),
            _scores('TE-P3M-500-NP', CARD, Smeasure=0.980, wFmeasure=0.989, MSE=0.002),
        ),
    ),
    _authors(
        *('BiRefNet_dynamic', 'general', 'swin-l', OWN_SIZE, 'rows'),
        'birefnet_dynamic/birefnet_swin-l_8xb2-200e_general-256x256-2304x2304.py',
        'dynamic-general-epoch_174',
        finetune_config=FINETUNE_DYNAMIC,
        data=UNPUBLISHED,
    ),
    _authors(
        *('BiRefNet_dynamic-matting', 'matting', 'swin-l', OWN_SIZE, 'rows'),
        'birefnet_dynamic/birefnet_swin-l_8xb2-150e_matting-256x256-2304x2304.py',
        'dynamic-matting-epoch_159',
        finetune_config=FINETUNE_DYNAMIC,
        data=UNPUBLISHED,
    ),
    _authors(
        *('BiRefNet-matting', 'matting', 'swin-l', '1024x1024', 'columns'),
        'birefnet_matting/birefnet_swin-l_8xb4-150e_matting-1024x1024.py',
        'birefnet[-_]matting-epoch_100',
        finetune_config=FINETUNE_MATTING,
        data=MATTING_TERMS,
        training_sets=MATTING,
        scores=(
            _scores('TE-P3M-500-NP', CARD, Smeasure=0.979, wFmeasure=0.988, MSE=0.003),
            _scores('TE-AM-2k', CARD, Smeasure=0.973, wFmeasure=0.989, MSE=0.003),
        ),
    ),
    _authors(
        *('BiRefNet_lite-matting', 'matting', 'swin-t', '1024x1024', 'rows'),
        'birefnet_matting/birefnet_swin-t_8xb4-150e_matting-1024x1024.py',
        'lite-matting',
        finetune_config='birefnet_matting/birefnet_swin-t_1xb4-20e_finetune-matting-1024x1024.py',
        data=MATTING_TERMS,
        scores=(
            _scores('TE-P3M-500-NP', SECOND_HAND, Smeasure=0.978),
            _scores('TE-AM-2k', SECOND_HAND, Smeasure=0.970),
        ),
    ),
    _authors(
        *('BiRefNet-portrait', 'portrait', 'swin-l', '1024x1024', 'columns'),
        'birefnet_matting/birefnet_swin-l_8xb4-150e_portrait-1024x1024.py',
        'birefnet[-_]portrait-epoch_150',
        finetune_config=FINETUNE_MATTING,
        data=P3M_TERMS,
        training_sets=('TR-P3M-10k', 'TE-P3M-500-NP', 'TR-humans'),
        scores=(_scores('TE-P3M-500-P', CARD, Smeasure=0.983, maxFm=0.996, wFmeasure=0.990, MAE=0.006),),
    ),
    _authors(
        *('BiRefNet-DIS5K', 'DIS5K', 'swin-l', '1024x1024', 'columns'),
        'birefnet/birefnet_swin-l_8xb4-500e_dis5k-1024x1024.py',
        'DIS-epoch_590',
        data=DIS5K_TERMS,
        training_sets=('DIS-TR',),
        scores=(
            _scores('DIS-VD', LAWDIS, wFmeasure=0.854, maxFm=0.891, MAE=0.038, Smeasure=0.898, meanEm=0.931),
            _scores('DIS-TE1', LAWDIS, wFmeasure=0.819, maxFm=0.860, MAE=0.037, Smeasure=0.885, meanEm=0.911),
            _scores('DIS-TE2', LAWDIS, wFmeasure=0.857, maxFm=0.894, MAE=0.036, Smeasure=0.900, meanEm=0.930),
            _scores('DIS-TE3', LAWDIS, wFmeasure=0.893, maxFm=0.925, MAE=0.028, Smeasure=0.919, meanEm=0.955),
            _scores('DIS-TE4', LAWDIS, wFmeasure=0.864, maxFm=0.904, MAE=0.039, Smeasure=0.900, meanEm=0.939),
        ),
    ),
    _authors(
        *('BiRefNet-DIS5K-TR_TEs', 'DIS5K', 'swin-l', '1024x1024', 'columns'),
        'birefnet/birefnet_swin-l_8xb4-500e_dis5k-tr-tes-1024x1024.py',
        'TR_DIS5K_TR_TEs-epoch_420',
        data=DIS5K_TERMS,
        training_sets=('DIS-TR', *DIS_TES),
        scores=(_scores('DIS-VD', README, wFmeasure=0.865, Smeasure=0.907, HCE=1059),),
    ),
    _authors(
        *('BiRefNet-HRSOD', 'HRSOD', 'swin-l', '1024x1024', 'columns'),
        'birefnet_hrsod/birefnet_swin-l_8xb4-150e_hrsod-1024x1024.py',
        'HRSOD_DHU-epoch_115',
        data=HRSOD_TERMS,
        training_sets=('TR-DUTS', 'TR-HRSOD', 'TR-UHRSD'),
    ),
    _authors(
        *('BiRefNet-COD', 'COD', 'swin-l', '1024x1024', 'columns'),
        'birefnet_cod/birefnet_swin-l_8xb4-150e_cod-1024x1024.py',
        'COD-epoch_125',
        data=COD_TERMS,
        training_sets=('TR-COD10K', 'TR-CAMO'),
        scores=(
            _scores('TE-CAMO', 'paper', Smeasure=0.904, wFmeasure=0.890, MAE=0.030),
            _scores('CHAMELEON', 'paper', Smeasure=0.932, wFmeasure=0.914, MAE=0.015),
            _scores('TE-COD10K', 'paper', Smeasure=0.913, wFmeasure=0.874, MAE=0.014),
            _scores('NC4K', 'paper', Smeasure=0.914, wFmeasure=0.894, MAE=0.023),
        ),
    ),
    _authors(
        *('BiRefNet-legacy', 'general', 'swin-l', '1024x1024', 'columns'),
        'birefnet_general/birefnet_swin-l_8xb4-200e_general-1024x1024.py',
        'birefnet.*legacy',
        data=UNPUBLISHED,
    ),
    ModelInfo(
        name='RMBG-2.0',
        task='general',
        backbone='swin-l',
        size='1024x1024',
        crop_order='columns',
        config='birefnet_general/birefnet_swin-l_8xb4-200e_general-1024x1024.py',
        finetune_config=FINETUNE_CONFIGS['swin-l'],
        repository='briaai/RMBG-2.0',  # gated: the terms must be accepted on its page first
        licence=Licence(MIT, 'CC BY-NC 4.0', "the publisher's own, not released"),
        file_pattern='rmbg-2',
    ),
    ModelInfo(
        name='ToonOut',
        task='anime',
        backbone='swin-l',
        size='1024x1024',
        crop_order='rows',
        config='birefnet_general/birefnet_swin-l_8xb4-200e_general-1024x1024.py',
        finetune_config=FINETUNE_CONFIGS['swin-l'],
        repository='joelseytre/toonout',
        file='birefnet_finetuned_toonout.pth',
        licence=Licence(MIT, MIT, f'fine-tuning set: CC BY 4.0; before that {MIXED_TERMS}'),
        file_pattern='toonout',
    ),
    ModelInfo(
        name='lucida',
        task='matting',
        backbone='swin-l',
        size='1024x1024',  # its model card uses 1024, although it was fine-tuned from BiRefNet_HR
        crop_order='rows',
        config='birefnet_matting/birefnet_swin-l_8xb4-150e_matting-1024x1024.py',
        finetune_config=FINETUNE_MATTING,
        repository='egeorcun/lucida',
        licence=Licence(MIT, MIT, f'mixed, partly research only; before that {MIXED_TERMS}'),
        file_pattern='lucida',
    ),
    ModelInfo(
        name='FeyNobg',
        task='general',
        backbone='swin-l',  # with 24 blocks in the third stage instead of 18
        size='1024x1024',
        crop_order=None,
        config='birefnet_general/birefnet_swin-l_8xb4-200e_general-1024x1024.py',
        finetune_config=FINETUNE_CONFIGS['swin-l'],
        repository='feyninc/FeyNobg',
        licence=Licence('Apache-2.0', 'Apache-2.0', UNPUBLISHED),
        file_pattern='feynobg',
    ),
)
CATALOG = {model.name: model for model in _MODELS}

# Networks released before May 2024: no inward reference at the deepest stage.
_EARLY_FILES = re.compile(r'(?:^|[-_])ep(?:480|580)\b', re.IGNORECASE)
EARLY_NETWORK = (
    'this is the network released before May 2024 (BiRefNet_ep480, DIS_ep580 and others), which has no inward '
    'reference at its deepest stage and is not supported. Fix: use a model that was released later, such as BiRefNet'
)


def list_models(pattern: str | None = None) -> list[str]:
    """Return the names of the released models.

    Args:
        pattern: Shell pattern, such as ``'*matting*'``, or a part of a name; case does not matter. All by default.
    """
    if pattern is None:
        return [*CATALOG]
    wanted = pattern.lower()
    return [name for name in CATALOG if fnmatch(name.lower(), wanted) or wanted in name.lower()]


def find_info(name: str) -> ModelInfo | None:
    """Find a released model by name or Hugging Face repository; ``None`` if there is none.

    Case does not matter, and ``-`` equals ``_``.
    """
    plain = _plain(name)
    return next((model for model in _MODELS if plain in (_plain(model.name), _plain(model.repository))), None)


def get_info(name: str) -> ModelInfo:
    """Return a released model by name or Hugging Face repository; see :func:`find_info`.

    Raises:
        ValueError: If there is none; the message lists similar names.
    """
    found = find_info(name)
    if found is None:
        raise ValueError(f'{name}: no released model of this name; {suggest(name)}')
    return found


def suggest(name: str) -> str:
    """Suggest similar names of released models."""
    close = get_close_matches(_plain(name), map(_plain, CATALOG), cutoff=0.5)
    names = [known for plain in close for known in CATALOG if _plain(known) == plain]
    return f'did you mean {" or ".join(names)}?' if names else f'known are {", ".join(CATALOG)}'


def identify(source: str | os.PathLike, meta: Mapping | None = None, sha256: str | None = None) -> ModelInfo | None:
    """Identify the released model of a name or file.

    Args:
        source: A name of this catalog, a Hugging Face repository, or the path of a checkpoint or of a folder from
            Hugging Face. It need not exist. A file is identified by its name. A file such as ``model.safetensors`` is
            identified by the name of its folder, the position of the folder in the Hugging Face cache, or
            ``_name_or_path`` of the ``config.json`` beside it.
        meta: ``meta`` of a checkpoint, in which conversion stores ``model_name``.
        sha256: SHA-256 of the file, if known.

    Returns:
        The model; ``None`` if it is unknown.

    Raises:
        ValueError: If it is a network that was released before May 2024.
    """
    if meta and (found := find_info(str(meta.get('model_name', '')))):
        return found
    if sha256 and (found := next((model for model in _MODELS if sha256 in model.sha256), None)):
        return found
    path = Path(source)
    if _EARLY_FILES.search(path.stem):
        raise ValueError(f'{source}: {EARLY_NETWORK}')
    is_file = path.suffix in CHECKPOINT_SUFFIXES
    if found := find_info(path.stem if is_file else str(source)) or find_info(path.name):
        return found
    for model in _MODELS:
        if re.search(model.file_pattern, path.name, re.IGNORECASE):
            return model
    if is_file and path.name.split('.')[0] not in ('model', 'pytorch_model', 'diffusion_pytorch_model'):
        return None
    return _by_folder(path.parent if is_file else path)


def _by_folder(folder: Path) -> ModelInfo | None:
    """The model of a folder downloaded from Hugging Face."""
    names = [folder.name]
    if folder.parent.name == 'snapshots':  # models--OWNER--NAME/snapshots/REVISION
        names.append(folder.parent.parent.name.rpartition('--')[2])
    names.append(str(folder_config(folder).get('_name_or_path', '')))
    return next((found for found in map(find_info, names) if found), None)


def folder_config(folder: str | os.PathLike) -> dict:
    """Content of the ``config.json`` of a Hugging Face folder; empty if it is missing or unreadable."""
    try:
        path = Path(folder) / 'config.json'
        content = json.loads(path.read_text(encoding='utf-8')) if path.is_file() else {}
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def find_checkpoint(path: str | os.PathLike) -> Path:
    """Return the file of the parameters: the path itself, or the file in a Hugging Face folder.

    Raises:
        FileNotFoundError: If a folder contains none.
    """
    path = Path(path)
    if not path.is_dir():
        return path
    for name in FOLDER_FILES:
        if (path / name).is_file():
            return path / name
    for index in path.glob(f'*{INDEX_SUFFIX}'):
        raise FileNotFoundError(f'{path}: this folder has {index.name}, so {SEVERAL_FILES}')
    raise FileNotFoundError(f'{path}: this folder has no {" or ".join(FOLDER_FILES)}')


def _plain(name: str) -> str:
    return name.lower().replace('_', '-')
