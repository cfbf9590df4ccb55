"""The reference's recipes by task, and its released checkpoints in their configs."""

import copy
import json
import re
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import CheckpointHook

from mmbirefnet.registry import MODELS
from mmbirefnet.utils import convert_birefnet_state_dict

ROOT = Path(__file__).parents[1] / 'configs'
KEYS = json.loads((Path(__file__).parent / 'data/golden/swin_t.keys.json').read_text())


class Recipe(NamedTuple):
    losses: dict
    epochs: int
    test_sets: list
    lr: float = 1e-5
    last_epochs: int = 20
    factors: dict = {'BCELoss': 0, 'IoULoss': 0.5}
    checkpoints: tuple = (50, 5)
    """Of the last 50 epochs every fifth."""


DIS5K = Recipe(
    losses={'BCELoss': 30, 'IoULoss': 0.5, 'SSIMLoss': 10},
    epochs=500,
    test_sets=['DIS-VD', 'DIS-TE1', 'DIS-TE2', 'DIS-TE3', 'DIS-TE4'],
    lr=1e-4,
    last_epochs=40,
)
COD = Recipe(DIS5K.losses, 150, ['TE-CAMO', 'CHAMELEON', 'TE-COD10K', 'NC4K'])
HRSOD = Recipe(DIS5K.losses, 150, ['DAVIS-S', 'TE-HRSOD', 'TE-UHRSD', 'TE-DUTS', 'DUT-OMRON'])
GENERAL = Recipe(
    losses={**DIS5K.losses, 'MAELoss': 100},
    epochs=200,
    test_sets=['DIS-VD', 'TE-P3M-500-NP'],
    factors={'BCELoss': 0, 'IoULoss': 0.5, 'MAELoss': 0.9},
)
MATTING = Recipe(
    losses={'BCELoss': 30, 'SSIMLoss': 10, 'MAELoss': 100},
    epochs=150,
    test_sets=['TE-P3M-500-NP', 'TE-AM-2k'],
    last_epochs=10,
    factors={'SSIMLoss': 0.9},
)
PAIRS = 1e-5 / 2**0.5  # learning rate of two images per GPU
RECIPES = {
    'birefnet/birefnet_swin-t_8xb4-500e_dis5k-1024x1024': DIS5K,
    'birefnet/birefnet_swin-s_8xb4-500e_dis5k-1024x1024': DIS5K,
    'birefnet/birefnet_swin-b_8xb4-500e_dis5k-1024x1024': DIS5K,
    'birefnet/birefnet_swin-l_8xb4-500e_dis5k-1024x1024': DIS5K,
    'birefnet/birefnet_swin-l_8xb4-500e_dis5k-tr-tes-1024x1024': DIS5K._replace(test_sets=['DIS-VD']),
    'birefnet_cod/birefnet_swin-l_8xb4-150e_cod-1024x1024': COD,
    'birefnet_hrsod/birefnet_swin-l_8xb4-150e_hrsod-1024x1024': HRSOD,
    'birefnet_hrsod/birefnet_swin-l_8xb4-150e_hrsod-duts-1024x1024': HRSOD,
    'birefnet_hrsod/birefnet_swin-l_8xb4-150e_hrsod-hrsod-1024x1024': HRSOD,
    'birefnet_hrsod/birefnet_swin-l_8xb4-150e_hrsod-uhrsd-1024x1024': HRSOD,
    'birefnet_hrsod/birefnet_swin-l_8xb4-150e_hrsod-duts-hrsod-1024x1024': HRSOD,
    'birefnet_hrsod/birefnet_swin-l_8xb4-150e_hrsod-duts-uhrsd-1024x1024': HRSOD,
    'birefnet_hrsod/birefnet_swin-l_8xb4-150e_hrsod-hrsod-uhrsd-1024x1024': HRSOD,
    'birefnet_general/birefnet_swin-l_8xb4-200e_general-1024x1024': GENERAL,
    'birefnet_general/birefnet_swin-t_8xb4-200e_general-1024x1024': GENERAL,
    'birefnet_general/birefnet_swin-l_8xb4-200e_general-512x512': GENERAL,
    'birefnet_general/birefnet_swin-t_8xb4-250e_general-2560x1440': GENERAL._replace(epochs=250, checkpoints=(30, 2)),
    'birefnet_hr/birefnet_swin-l_8xb2-200e_general-2048x2048': GENERAL._replace(lr=PAIRS, test_sets=['DIS-VD']),
    'birefnet_dynamic/birefnet_swin-l_8xb2-200e_general-256x256-2304x2304': GENERAL._replace(lr=PAIRS),
    'birefnet_dynamic/birefnet_swin-l_8xb2-150e_matting-256x256-2304x2304': MATTING._replace(lr=PAIRS),
    'birefnet_matting/birefnet_swin-l_8xb4-150e_matting-1024x1024': MATTING,
    'birefnet_matting/birefnet_swin-t_8xb4-150e_matting-1024x1024': MATTING,
    'birefnet_matting/birefnet_swin-l_8xb4-150e_portrait-1024x1024': MATTING._replace(test_sets=['TE-P3M-500-P']),
    'birefnet_hr/birefnet_swin-l_8xb2-150e_matting-2048x2048': MATTING._replace(lr=PAIRS),
}


def test_every_task_config_has_a_recipe():
    folders = [f'birefnet{task}' for task in ('_cod', '_hrsod', '_general', '_hr', '_dynamic', '_matting')]
    found = {f'{folder}/{path.stem}' for folder in folders for path in (ROOT / folder).glob('*.py')}
    found = {name for name in found if '_finetune-' not in name}
    assert found == {name for name in RECIPES if not name.startswith('birefnet/')}


@pytest.mark.parametrize('name', RECIPES)
def test_recipe(name):
    cfg = Config.fromfile(ROOT / f'{name}.py')
    recipe = RECIPES[name]
    assert {loss.type: loss.loss_weight for loss in cfg.model.decode_head.loss_decode} == {
        f'mmbirefnet.{loss}': weight for loss, weight in recipe.losses.items()
    }
    assert cfg.train_cfg.max_epochs == recipe.epochs
    schedule = cfg.default_hooks.loss_schedule
    assert (schedule.type, schedule.last_epochs) == ('mmbirefnet.LossScheduleHook', recipe.last_epochs)
    assert schedule.factors == recipe.factors
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.lr, optimizer.weight_decay) == ('AdamW', pytest.approx(recipe.lr), 1e-2)
    assert cfg.param_scheduler == []
    assert cfg.randomness.seed == 7
    # At the end the checkpoints of the last epochs are there, and those were validated.
    span, interval = recipe.checkpoints
    hook = CheckpointHook(**{key: value for key, value in cfg.default_hooks.checkpoint.items() if key != 'type'})
    assert (hook.interval, hook.max_keep_ckpts) == (interval, span // interval)
    assert (cfg.train_cfg.val_begin, cfg.train_cfg.val_interval) == (recipe.epochs - span, interval)
    assert list(cfg.test_dataloader.dataset.sets) == recipe.test_sets
    assert cfg.val_dataloader.dataset.sets in (recipe.test_sets[0], 'DAVIS-S', 'CHAMELEON')
    soft = cfg.test_evaluator.get('soft_masks', False), cfg.val_evaluator.get('soft_masks', False)
    assert soft == ('IoULoss' not in recipe.losses,) * 2


def test_only_large_images_train_the_model_of_wide_images():
    """Of at least 2560x1440, or with both sides above 0.8 of that."""
    for name in RECIPES:
        dataset = Config.fromfile(ROOT / f'{name}.py').train_dataloader.dataset
        expected = (0.8 * 2560, 0.8 * 1440) if '2560x1440' in name else None
        assert dataset.get('larger_than') == expected


@pytest.mark.parametrize('name', [name for name in RECIPES if '_dynamic/' in name])
def test_models_of_dynamic_size_are_augmented_at_the_original_size(name):
    cfg = Config.fromfile(ROOT / f'{name}.py')
    *steps, last, _ = [step.type for step in cfg.train_dataloader.dataset.pipeline]
    assert last == 'mmbirefnet.ResizeToBatch'
    assert steps[2:] == ['RandomFlip', *(f'mmbirefnet.{n}' for n in ('RandomRotate', 'ColorEnhance', 'SaltAndPepper'))]


# Swin-T's keys and shapes are recorded; the others' follow from them.
SWINS = {'t': (1, 6, 7), 's': (1, 18, 7), 'b': (4 / 3, 18, 12), 'l': (2, 18, 12)}


def reference_state_dict(arch, classifier=False):
    """Parameters of the reference without memory: channels are wider, the third stage deeper, windows larger."""
    factor, depth, window = SWINS[arch]
    state = {}
    for key, (shape, dtype) in KEYS.items():
        if key.startswith('cls_head.') and not classifier:
            continue
        if key.endswith('relative_position_bias_table'):
            shape = [(2 * window - 1) ** 2, round(factor * shape[1])]
        elif key.endswith('relative_position_index'):
            shape = [window**2] * 2
        elif not re.fullmatch(r'decoder\.ipt_blk\d\.conv1\.weight', key):  # takes the image's crops
            # All other widths that depend on the backbone's, and these alone, are multiples of 24.
            shape = [round(factor * size) if size % 24 == 0 else size for size in shape]
        state[key] = torch.empty(shape, dtype=getattr(torch, dtype), device='meta')
        if key.startswith('bb.layers.2.blocks.5.'):
            for block in range(6, depth):
                state[key.replace('blocks.5', f'blocks.{block}')] = state[key]
    return state


@pytest.mark.parametrize('name', RECIPES)
@pytest.mark.soak(keep=8)
def test_released_checkpoint_fits(name):
    """Without a missing or unexpected key, and each of its shape."""
    cfg = Config.fromfile(ROOT / f'{name}.py')
    converted = convert_birefnet_state_dict(reference_state_dict(cfg.model.backbone.arch))
    with torch.device('meta'):
        model = MODELS.build(copy.deepcopy(cfg.model))
    model.load_state_dict(converted, strict=True, assign=True)


def test_released_checkpoint_with_classifier_fits():
    cfg = Config.fromfile(ROOT / 'birefnet/birefnet_swin-l_8xb4-500e_dis5k-1024x1024.py')
    converted = convert_birefnet_state_dict(reference_state_dict('l', classifier=True))
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
        with pytest.raises(RuntimeError, match=r'Unexpected key.*neck\.classifier'):
            model.load_state_dict(converted, assign=True)
        cfg.model.neck.aux_classifier = True
        MODELS.build(cfg.model).load_state_dict(converted, assign=True)
