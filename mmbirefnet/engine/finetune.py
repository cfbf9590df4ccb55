"""Fine-tuning in one call: choose the settings, write them as a config, train, and compare scores before and after.

:func:`finetune` implements ``mmbirefnet finetune``. All its choices are in the config that it writes, so you can repeat
or change a run with ``tools/train.py``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import cv2
import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope

from mmbirefnet.datasets import DichotomousDataset
from mmbirefnet.datasets.preparation.check import check_sets, ruinous
from mmbirefnet.datasets.preparation.find_sets import DataFolder, find_data_folder
from mmbirefnet.datasets.transforms.decode import read_image, read_map, read_mask
from mmbirefnet.engine.finetune_plan import Plan, build_dataset, configs_folder, make_plan, share_held_out
from mmbirefnet.engine.launch import runner_of
from mmbirefnet.evaluation.report import TableRow, to_markdown
from mmbirefnet.fileio.atomic import replacing
from mmbirefnet.fileio.checkpoints import misfit, read_state_dict, write_checkpoint
from mmbirefnet.fileio.configs import read_config
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
SHEET_ROWS = 8


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
        recipe: Names of :func:`~mmbirefnet.engine.finetune_plan.list_recipes`, applied one after another, or
            ``'auto'``.
        config: Config to fine-tune with; by default the one of the model.
        val: Folder with validation images and masks; by default ``val/`` in ``data``, else some images are held out.
        old_data: Folder with images and masks of the old domain, which are mixed in.
        old_share: Share of ``old_data`` in an epoch, in (0, 1).
        epochs: Number of epochs; by default chosen from the number of images.
        batch_size: Images per step of the optimizer; by default that of the config.
        memory: Memory limit in GiB; by default 95 % of the free memory of the GPU, or 60 % of the machine memory.
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
    plan, overrides = make_plan(
        *(folder, checkpoint, base, settings, recipe, old_data, old_share, epochs, batch_size, memory, options or {})
    )
    out.mkdir(parents=True, exist_ok=True)
    path = out / 'config.py'
    overrides['work_dir'] = str(out / 'work_dir')
    _write_config(path, base, overrides, plan)
    cfg = read_config(path)
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
    reports = check_sets(folder.root, further=further, held_out=share_held_out(folder))
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
    cfg.experiment_name = f'{folder.name}_{uuid4().hex}'  # mmengine caches loggers by name, with their file
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
    dataset = build_dataset(config)
    rows = []
    for index in np.unique(np.linspace(0, len(dataset) - 1, min(SHEET_ROWS, len(dataset))).round().astype(int)):
        info = dataset.get_data_info(int(index))
        stem = dataset.stem_of(info['img_path'])
        before, after = (read_map(str(out / name / 'maps' / f'{stem}.png')) for name in ('before', 'after'))
        mask = np.rint(read_mask(info['seg_map_path']) * 255).astype(np.uint8)
        rows.append(SheetRow(read_image(info['img_path'])[..., ::-1], mask, after, f'{stem}: before, after', before))
    cv2.imwrite(str(out / 'contact_sheet.png'), draw_contact_sheet(rows)[..., ::-1])
