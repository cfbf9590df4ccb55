"""Choose the settings of a fine-tuning: recipes, data sets, epochs, and a batch that fits into memory."""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config

import mmbirefnet
from mmbirefnet.datasets import DichotomousDataset, FolderDataset
from mmbirefnet.datasets.preparation.find_sets import DataFolder, find_data_folder
from mmbirefnet.datasets.soft_masks import are_soft, count_soft
from mmbirefnet.engine.training_memory import GIB, available_gib, estimate_memory
from mmbirefnet.fileio.configs import check_options, read_config

FEW = 25  # number of images up to which strong augmentation is used
SMALL = 100  # below this number of images, a fifth is held out
IMAGES_SEEN = 4000  # images over all epochs, for a small set


def configs_folder() -> Path:
    """The folder of our configs: in the installed package, or beside it in a clone."""
    package = Path(mmbirefnet.__file__).resolve().parent
    return next(folder / 'configs' for folder in (package / '.mim', package.parent) if (folder / 'configs').is_dir())


def list_recipes() -> dict[str, Path]:
    """Recipes by name: configs in ``configs/_base_/finetune``, each of which changes one thing."""
    return {path.stem: path for path in sorted((configs_folder() / '_base_/finetune').glob('*.py'))}


@dataclass
class Plan:
    """Settings of a fine-tuning, with their reasons."""

    checkpoint: str
    base_config: str
    recipes: list[str]
    train_images: int
    val_images: list[str]
    """Stems of the held-out images."""
    size: tuple[int, int] | None
    """(width, height) of the model input in pixels; ``None`` if it varies."""
    batch_size: int
    accumulate: int
    """Batches per step of the optimizer."""
    epochs: int
    checkpointing: bool
    memory_gib: float
    """Estimated memory of training in GiB."""


def share_held_out(folder: DataFolder) -> float:
    """Share of held-out images: a tenth, or a fifth of fewer than 100 images, so that there are enough to score."""
    return 0.2 if len(folder.stems) < SMALL else 0.1


def choose_recipes(images: int, soft: bool) -> list[str]:
    """Choose recipes for ``'auto'``, based on the measurements in ``docs/en/user_guides/finetune.md``.

    Args:
        images: Number of training images.
        soft: Whether the masks are alpha mattes.
    """
    recipes = ['frozen_batchnorm']
    if images <= FEW:
        recipes.append('few_images')
    if soft:
        recipes.append('matting')
    return recipes


def make_plan(
    folder: DataFolder,
    checkpoint: str,
    base: Path,
    settings: Mapping[str, Any],
    recipe: str | Sequence[str],
    old_data: str | os.PathLike | None,
    old_share: float,
    epochs: int | None,
    batch_size: int | None,
    memory: float | None,
    options: Mapping[str, Any],
) -> tuple[Plan, dict]:
    """Choose the settings, and the options that the config adds to its base."""
    cfg = read_config(base)
    check_options(cfg, options)
    train, val = _datasets(folder, share_held_out(folder))
    train_set = build_dataset(train)
    val_set = build_dataset(dict(val, test_mode=True))
    images, soft = len(train_set), are_soft(count_soft(train_set, 64))
    recipes = choose_recipes(images, soft) if recipe == 'auto' else _names(recipe)
    overrides = Config(dict(settings))
    known = list_recipes()
    for name in recipes:
        if name not in known:
            raise ValueError(f'--recipe {name}: no such recipe; there are auto, {", ".join(known)}')
        changes = read_config(known[name])._cfg_dict.to_dict()
        model_type = changes.get('model', {}).get('type')
        if model_type and 'type' in overrides.get('model', {}):
            raise ValueError(
                f'--recipe {"+".join(recipes)}: two of them change the class of the model. Fix: leave one out'
            )
        overrides.merge_from_dict(changes)
    overrides = overrides._cfg_dict.to_dict()

    pipeline = [dict(step) for step in cfg.train_dataloader.dataset.pipeline]
    at = next(i for i, step in enumerate(pipeline) if step['type'].endswith(('Resize', 'ResizeToBatch')))
    pipeline = [*pipeline[:at], *overrides.pop('before_resize', []), *pipeline[at:-1]]
    pipeline += [*overrides.pop('after_resize', []), dict(cfg.train_dataloader.dataset.pipeline[-1])]
    train_dataset = dict(_delete_=True, **train, pipeline=pipeline)
    if old_data is not None:
        if not 0 < old_share < 1:
            raise ValueError(f'--old-share {old_share}: must be in (0, 1)')
        old = find_data_folder(old_data)
        old_train = dict(_datasets(old, 0.1)[0], pipeline=pipeline)
        train_dataset = dict(
            _delete_=True,
            type='mmbirefnet.MixedDataset',
            datasets=[dict(train, pipeline=pipeline), old_train],
            shares=[1 - old_share, old_share],
        )
    test_pipeline = [dict(step) for step in cfg.val_dataloader.dataset.pipeline]
    test_pipeline[-1:-1] = overrides.pop('before_test_pack', [])
    val_dataset = dict(_delete_=True, **val, pipeline=test_pipeline, test_mode=True)

    total = epochs or min(max(round(IMAGES_SEEN / images), cfg.train_cfg.max_epochs), 100)
    size = next((tuple(step['scale']) for step in pipeline if step['type'] == 'mmbirefnet.Resize'), None)
    plan = Plan(checkpoint, os.path.abspath(base), recipes, images, _stems(val_set), size, 0, 1, total, False, 0.0)
    if torch.cuda.is_available() and torch.cuda.is_bf16_supported() and cfg.optim_wrapper.type == 'OptimWrapper':
        overrides = _merge(dict(optim_wrapper=dict(type='mmbirefnet.BFloat16OptimWrapper')), overrides)
    _fit_memory(plan, cfg, overrides, batch_size, memory)
    interval = max(1, total // 20)
    loader = dict(
        batch_size=plan.batch_size,
        num_workers=min(cfg.train_dataloader.num_workers, os.cpu_count() or 1),
        drop_last=images >= 2 * plan.batch_size,  # an incomplete last batch disturbs BatchNorm
        dataset=train_dataset,
    )
    overrides = _merge(
        overrides,
        dict(
            load_from=checkpoint,
            train_dataloader=loader,
            val_dataloader=dict(dataset=val_dataset),
            test_dataloader=dict(dataset=val_dataset),
            train_cfg=dict(max_epochs=total, val_begin=1, val_interval=interval),
            default_hooks=dict(checkpoint=dict(interval=interval, max_keep_ckpts=1)),
        ),
    )
    overrides['custom_hooks'] = [
        *cfg.get('custom_hooks', []),
        *overrides.get('custom_hooks', []),
        dict(type='mmbirefnet.FirstBatchHook'),
        dict(type='mmbirefnet.ValLossHook'),
        dict(
            type='EarlyStoppingHook',
            monitor='MAE' if 'matting' in recipes else 'wFmeasure',
            rule='less' if 'matting' in recipes else 'greater',
            min_delta=1e-3 if 'matting' not in recipes else 1e-4,
            patience=8,
        ),
    ]
    if plan.accumulate > 1:
        overrides = _merge(overrides, dict(optim_wrapper=dict(accumulative_counts=plan.accumulate)))
    merged = Config(overrides)
    merged.merge_from_dict(dict(options))
    schedulers = merged.get('param_scheduler', cfg.get('param_scheduler'))
    _check_schedule(merged.train_cfg.max_epochs, merged.custom_hooks, schedulers)
    return plan, merged._cfg_dict.to_dict()


def _check_schedule(epochs: int, hooks: Sequence[dict], schedulers: Sequence[dict] | dict | None) -> None:
    """Raise ``ValueError`` if a hook or schedule begins after the last epoch."""
    schedulers = [schedulers] if isinstance(schedulers, dict) else schedulers or []
    begins = [(hook['type'], 'begin_epoch', hook.get('begin_epoch', 0)) for hook in hooks]
    begins += [(each['type'], 'begin', each.get('begin', 0)) for each in schedulers if each.get('by_epoch', True)]
    for kind, key, begin in begins:
        if begin >= epochs:
            raise ValueError(
                f'--epochs {epochs}: the training ends before {kind} begins ({key}={begin} in the config). '
                f'Fix: --epochs {begin + 1} or more, or a config in which it begins earlier'
            )


def _names(recipe: str | Sequence[str]) -> list[str]:
    return recipe.split('+') if isinstance(recipe, str) else list(recipe)


def _merge(first: dict, second: dict) -> dict:
    """Merge ``second`` into ``first``, recursively."""
    merged = dict(first)
    for key, value in second.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _datasets(folder: DataFolder, held_out: float) -> tuple[dict, dict]:
    """Configs of the data sets for training and validation, without pipelines."""
    common = dict(data_prefix=folder.prefix)
    if folder.mask_ending:
        common['seg_map_suffix'] = folder.mask_suffixes
    if folder.val_root is None:
        own = dict(common, type='mmbirefnet.FolderDataset', data_root=folder.root, held_out=held_out)
        return dict(own, split='train'), dict(own, split='val')
    train, val = (
        dict(common, type='mmbirefnet.DichotomousDataset', data_root=root) for root in (folder.root, folder.val_root)
    )
    return train, val


def build_dataset(config: dict) -> DichotomousDataset:
    """Build the data set of a config of :func:`make_plan`, with or without pipeline."""
    cls = FolderDataset if config['type'].endswith('FolderDataset') else DichotomousDataset
    return cls(**{key: value for key, value in config.items() if key != 'type'})


def _stems(dataset: DichotomousDataset) -> list[str]:
    return [dataset.stem_of(dataset.get_data_info(i)['img_path']) for i in range(len(dataset))]


def _fit_memory(plan: Plan, cfg: Config, overrides: dict, batch_size: int | None, memory: float | None) -> None:
    """Choose the largest batch that fits, with checkpointing if necessary; accumulation provides the rest of a step."""
    merged = Config(cfg._cfg_dict.to_dict())
    parts = {key: overrides[key] for key in ('model', 'train_dataloader') if key in overrides}
    merged.merge_from_dict(copy.deepcopy(parts))  # mmengine removes _delete_ from what it merges
    wrapper = overrides.get('optim_wrapper', {})
    given = wrapper.get('accumulative_counts', 1) * merged.train_dataloader.batch_size
    wanted = max(1, min(batch_size or given, plan.train_images))
    largest = max(1, min(wanted, batch_size or merged.train_dataloader.batch_size))
    limit = memory or available_gib()
    amp = wrapper.get('type', cfg.optim_wrapper.get('type', '')).endswith(('BFloat16OptimWrapper', 'AmpOptimWrapper'))
    width, height = plan.size or (1024, 1024)
    already = bool(merged.model.backbone.get('with_cp', False))
    for checkpointing in (False, True) if not already else (True,):
        merged.model.backbone.with_cp = merged.model.decode_head.with_cp = checkpointing
        fixed, per_pixel = estimate_memory(merged.model, amp)
        for batch in range(largest, 0, -1):
            needed = (fixed + per_pixel * width * height * batch) / GIB
            plan.memory_gib = round(needed, 2)
            if needed <= limit:
                plan.batch_size, plan.accumulate = batch, math.ceil(wanted / batch)
                plan.checkpointing = checkpointing
                if checkpointing and not already:
                    overrides['model'] = _merge(
                        overrides.get('model', {}), dict(backbone=dict(with_cp=True), decode_head=dict(with_cp=True))
                    )
                return
    raise ValueError(
        f'training at {width}x{height} takes about {plan.memory_gib} GiB for one image with checkpointing, and there '
        f'are {limit:.1f} GiB. Fix: a smaller model (--from BiRefNet_lite or BiRefNet_512x512), --recipe lora or '
        'frozen_backbone, or --memory GIB if there is more'
    )
