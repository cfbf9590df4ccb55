"""Fine-tuning in one call: choose the settings, write them as a config, train, and compare scores before and after.

:func:`finetune` implements ``mmbirefnet finetune``. All its choices are in the config that it writes, so you can repeat
or change a run with ``tools/train.py``.
"""

from __future__ import annotations

import copy
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope

import mmbirefnet
from mmbirefnet.datasets import DichotomousDataset, FolderDataset
from mmbirefnet.datasets.preparation.check import check_sets, ruinous
from mmbirefnet.datasets.preparation.find_sets import DataFolder, find_data_folder
from mmbirefnet.datasets.soft_masks import are_soft, count_soft
from mmbirefnet.datasets.transforms.decode import read_image, read_map, read_mask
from mmbirefnet.engine.launch import runner_of
from mmbirefnet.engine.training_memory import GIB, available_gib, estimate_memory
from mmbirefnet.evaluation.report import TableRow, to_markdown
from mmbirefnet.fileio.atomic import replacing
from mmbirefnet.fileio.checkpoints import misfit, read_state_dict, write_checkpoint
from mmbirefnet.fileio.configs import check_options, read_config
from mmbirefnet.models.segmentors.lora import merge_adapters, split_adapters, write_adapters
from mmbirefnet.registry import MODELS
from mmbirefnet.visualization import SheetRow, draw_contact_sheet
from mmbirefnet.visualization.curves import draw_history
from mmbirefnet.zoo.architecture import infer_backbone_name, infer_model_config
from mmbirefnet.zoo.catalog import FINETUNE_CONFIGS, find_info, identify
from mmbirefnet.zoo.convert import load_birefnet
from mmbirefnet.zoo.crop_order import AUTO
from mmbirefnet.zoo.download import fetch

MEASURES = ('maxFm', 'wFmeasure', 'MAE', 'Smeasure', 'meanEm')
FEW = 25  # number of images up to which strong augmentation is used
SMALL = 100  # below this number of images, a fifth is held out
IMAGES_SEEN = 4000  # images over all epochs, for a small set
SHEET_ROWS = 8


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


@dataclass
class Result:
    """Files and scores of a fine-tuning."""

    config: str
    weights: str
    before: dict[str, float]
    after: dict[str, float]
    trained_parameters: int
    plan: Plan
    adapters: str | None = None


def finetune(
    data: str | os.PathLike,
    out: str | os.PathLike,
    model: str = 'BiRefNet_lite',
    recipe: str | Sequence[str] = 'auto',
    *,
    config: str | os.PathLike | None = None,
    val: str | os.PathLike | None = None,
    old_data: str | os.PathLike | None = None,
    old_share: float = 0.25,
    epochs: int | None = None,
    batch_size: int | None = None,
    memory: float | None = None,
    check: bool = True,
    crop_order: str = AUTO,
    options: Mapping[str, Any] | None = None,
    dry_run: bool = False,
    report: Callable[[str], None] = print,
) -> Result | Plan:
    """Fine-tune a model on a folder of images and masks.

    Args:
        data: Folder with images and masks, see :func:`~mmbirefnet.datasets.preparation.find_sets.find_data_folder`.
        out: Folder to write to; must be new or empty.
        model: Name of a released model, or a checkpoint.
        recipe: Names of :func:`list_recipes`, applied one after another, or ``'auto'``.
        config: Config to fine-tune with; by default the one of the model.
        val: Folder with validation images and masks; by default ``val/`` in ``data``, else some images are held out.
        old_data: Folder with images and masks of the old domain, which are mixed in.
        old_share: Share of ``old_data`` in an epoch, in (0, 1).
        epochs: Number of epochs; by default chosen from the number of images.
        batch_size: Images per step of the optimizer; by default that of the config.
        memory: Memory limit in GiB; by default the free memory of the GPU, or 60 % of the memory of the machine.
        check: Whether to check the data first, and to stop at problems that ruin a training.
        crop_order: Order of the crops that a released model was trained with, see
            :func:`mmbirefnet.utils.convert_birefnet_state_dict`.
        options: Further settings of the config by dotted key, which override all others.
        dry_run: Whether to only write the config, and return the plan.
        report: Called with each line of output.

    Raises:
        FileNotFoundError: If a folder, image, mask or checkpoint is missing.
        FileExistsError: If ``out`` is not empty.
        ValueError: If the data has problems, an option is invalid, or the memory is too small.
    """
    out = Path(out)
    if out.exists() and any(out.iterdir()):
        raise FileExistsError(f'{out}: not empty. Fix: give -o a new folder, or remove this one')
    folder = find_data_folder(data, val)
    if check:
        _check(folder, report)
    checkpoint, base, settings = _find_model(model, config, crop_order)
    plan, overrides = _plan(
        *(folder, checkpoint, base, settings, recipe, old_data, old_share, epochs, batch_size, memory, options or {})
    )
    out.mkdir(parents=True, exist_ok=True)
    path = out / 'config.py'
    overrides['work_dir'] = str(out / 'work_dir')
    _write_config(path, base, overrides, plan)
    cfg = read_config(path)
    check_options(cfg, options or {})
    for line in _describe(plan, path):
        report(line)
    if dry_run:
        return plan

    soft = 'matting' in plan.recipes
    before = score(cfg, plan.checkpoint, out / 'before', soft)
    cfg.launcher = 'none'
    with runner_of(cfg) as runner:
        runner.train()
        trained = sum(parameter.numel() for parameter in runner.model.parameters() if parameter.requires_grad)
        scale = getattr(runner.model, 'lora_scale', None)
    result = Result(str(path), str(out / 'weights.pth'), before, {}, trained, plan)
    _export(out, cfg, scale, result)
    result.after = score(cfg, result.weights, out / 'after', soft)
    _draw_sheet(cfg, out)
    draw_history(out / 'work_dir', out / 'curves.png')
    table = to_markdown(
        [TableRow('validation', name, scores) for name, scores in (('before', before), ('after', result.after))],
        [name for name in MEASURES if name in before],
    )
    (out / 'scores.md').write_text(table, encoding='utf-8')
    (out / 'result.json').write_text(json.dumps(asdict(result), indent=1), encoding='utf-8')
    report(f'{table}\nweights: {result.weights}\nimages: {out / "contact_sheet.png"}, {out / "curves.png"}')
    if result.adapters:
        report(f'adapters: {result.adapters}')
    return result


def _check(folder: DataFolder, report: Callable[[str], None]) -> None:
    """Report the problems of the data, and raise an error if one of them ruins a training."""
    further = [folder.val_root] if folder.val_root else []
    reports = check_sets(folder.root, further=further, held_out=_share_held_out(folder))
    problems = [problem for found in reports.values() for problem in found.problems]
    for problem in problems[:20]:
        report(f'{problem.path}: {problem.kind}: {problem.detail}')
    if len(problems) > 20:
        report(f'… and {len(problems) - 20} more; "mmbirefnet check {folder.root}" lists all')
    if fatal := ruinous(reports):
        raise ValueError(
            f'{folder.root}: {len(fatal)} problems that ruin a training, such as {fatal[0].path} ({fatal[0].kind}: '
            f'{fatal[0].detail}). Fix: correct or remove the files, or train on what can be read with --no-check'
        )


def _share_held_out(folder: DataFolder) -> float:
    """Share of held-out images: a tenth, or a fifth of fewer than 100 images, so that there are enough to score."""
    return 0.2 if len(folder.stems) < SMALL else 0.1


def _find_model(model: str, config: str | os.PathLike | None, crop_order: str) -> tuple[str, Path, dict]:
    """Find the checkpoint, the config for fine-tuning, and settings of the model that this config lacks."""
    settings = {}
    if crop_order != AUTO:
        hook = dict(type='mmbirefnet.PretrainedCheckpointHook', crop_order=crop_order)
        settings['default_hooks'] = dict(pretrained_checkpoint=hook)
    if config is not None:
        fetch(model)
        return model, Path(config), settings
    info = find_info(model)
    loaded = load_birefnet(model, crop_order)
    info = info or find_info(str(loaded.meta.get('model_name', ''))) or (None if loaded.converted else identify(model))
    backbone = infer_backbone_name(loaded.state_dict)
    name = info.finetune_config if info and info.backbone == backbone else FINETUNE_CONFIGS.get(backbone)
    if name is not None:
        found = configs_folder() / name
        base = read_config(found).model
        arch = infer_model_config(loaded.state_dict)['backbone']['arch']
        if isinstance(arch, dict):  # of other depths than the config
            base.backbone.arch = arch
            settings['model'] = dict(backbone=dict(arch=dict(_delete_=True, **arch)))
        if not _misfit(loaded.state_dict, base):
            return info.name if find_info(model) else model, found, settings
    raise ValueError(f'{model}: no fine-tuning config fits this model. Fix: pass its config with --config')


def _misfit(state_dict: Mapping[str, torch.Tensor], model: dict) -> str:
    with torch.device('meta'), DefaultScope.overwrite_default_scope('mmseg'):
        return misfit(state_dict, MODELS.build(model).state_dict(), ('neck.classifier.',))


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


def _plan(
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
    train, val = _datasets(folder, _share_held_out(folder))
    train_set = _build(train)
    val_set = _build(dict(val, test_mode=True))
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
    return plan, merged._cfg_dict.to_dict()


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


def _build(config: dict) -> DichotomousDataset:
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


def _write_config(path: Path, base: Path, overrides: dict, plan: Plan) -> None:
    with replacing(path) as temporary:
        temporary.write_text(
            f'# Written by "mmbirefnet finetune": {plan.train_images} training images, recipes '
            f'{", ".join(plan.recipes) or "full"}. Train with it again: python tools/train.py {path.name}\n'
            f'_base_ = {os.path.abspath(base)!r}\n' + Config(overrides).pretty_text,
            encoding='utf-8',
        )


def _describe(plan: Plan, path: Path) -> list[str]:
    size = 'varying size' if plan.size is None else 'x'.join(map(str, plan.size))
    held = ', '.join(plan.val_images[:5]) + (' …' if len(plan.val_images) > 5 else '')
    return [
        f'{plan.train_images} images to train on, {len(plan.val_images)} to validate on ({held})',
        f'{plan.checkpoint} with {Path(plan.base_config).name}, recipes: {", ".join(plan.recipes) or "full"}',
        f'{plan.epochs} epochs at {size}, {plan.batch_size} images at once, {plan.accumulate} times for a step'
        f'{", with checkpointing" if plan.checkpointing else ""}: about {plan.memory_gib} GiB',
        f'config: {path}',
    ]


def _plain_model(model: dict) -> dict:
    """Config of the same model without adapters."""
    model = dict(model)
    if model['type'] == 'mmbirefnet.LoRABiRefNet':
        model = {key: value for key, value in model.items() if key not in ('rank', 'alpha', 'dropout')}
        model['type'] = 'mmbirefnet.BiRefNet'
    return model


def score(cfg: Config, checkpoint: str | os.PathLike, folder: Path, soft: bool = False) -> dict[str, float]:
    """Score a checkpoint on the test images of a config.

    Args:
        cfg: Config, which is not changed. Adapters of its model are ignored, since the checkpoint has plain weights.
        checkpoint: File, or name of a released model.
        folder: Folder for the predictions (``maps/``) and the log.
        soft: Whether ``MSE`` is among the scores.
    """
    cfg = Config(cfg._cfg_dict.to_dict())
    cfg.model = _plain_model(cfg.model)
    cfg.load_from = str(checkpoint)
    cfg.work_dir = str(folder / 'log')
    cfg.launcher = 'none'
    measures = [*MEASURES, 'MSE'] if soft else list(MEASURES)
    cfg.test_evaluator = dict(cfg.test_evaluator, measures=measures, output_dir=str(folder / 'maps'))
    pretrained = cfg.default_hooks.pop('pretrained_checkpoint', None)
    cfg.custom_hooks = [pretrained or dict(type='mmbirefnet.PretrainedCheckpointHook')]
    cfg.default_hooks.pop('benchmark_table', None)
    cfg.train_dataloader = cfg.train_cfg = cfg.optim_wrapper = None
    cfg.val_dataloader = cfg.val_cfg = cfg.val_evaluator = None
    cfg.param_scheduler = None
    cfg.experiment_name = f'{folder.name}_{id(cfg)}'
    cfg.visualizer.name = cfg.experiment_name  # mmengine caches visualizers by name, with the folder of the first run
    cfg.log_level = 'WARNING'
    with runner_of(cfg) as runner:
        return {key.rpartition('/')[2]: float(value) for key, value in runner.test().items()}


def _export(out: Path, cfg: Config, scale: float | None, result: Result) -> None:
    """Write the weights of the best checkpoint with merged adapters, and the adapters separately."""
    name = 'MAE' if 'matting' in result.plan.recipes else 'wFmeasure'
    found = sorted((out / 'work_dir').glob(f'best_*{name}*.pth'), key=lambda path: path.stat().st_mtime)
    found = found or sorted((out / 'work_dir').glob('epoch_*.pth'), key=lambda path: path.stat().st_mtime)
    state = read_state_dict(found[-1])
    if scale is not None:
        state, adapters = split_adapters(state)
        result.adapters = str(out / 'adapters.safetensors')
        write_adapters(result.adapters, adapters, scale)
        state = merge_adapters(state, adapters, scale)
    meta = dict(dataset_meta=DichotomousDataset.METAINFO, finetuned_from=result.plan.checkpoint)
    if result.plan.size is not None:
        width, height = result.plan.size
        meta['input_size'] = (height, width)
    write_checkpoint(result.weights, state, meta)


def _draw_sheet(cfg: Config, out: Path) -> None:
    """Write a sheet of some validation images: image, mask, prediction before and after."""
    config = {key: value for key, value in cfg.test_dataloader.dataset.items() if key != 'pipeline'}
    dataset = _build(config)
    rows = []
    for index in np.unique(np.linspace(0, len(dataset) - 1, min(SHEET_ROWS, len(dataset))).round().astype(int)):
        info = dataset.get_data_info(int(index))
        stem = dataset.stem_of(info['img_path'])
        before, after = (read_map(str(out / name / 'maps' / f'{stem}.png')) for name in ('before', 'after'))
        mask = np.rint(read_mask(info['seg_map_path']) * 255).astype(np.uint8)
        rows.append(SheetRow(read_image(info['img_path'])[..., ::-1], mask, after, f'{stem}: before, after', before))
    cv2.imwrite(str(out / 'contact_sheet.png'), draw_contact_sheet(rows)[..., ::-1])
