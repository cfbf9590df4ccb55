"""``mmbirefnet finetune`` from a folder to weights, and what it decides."""

import argparse
import importlib
import json
import re
import shlex
import shutil
from pathlib import Path

import cv2
import pytest
import torch
from golden import reference_state_dict
from mmengine.config import Config
from small_finetuning import SMALL_MODEL, write_config, write_images, write_model

from mmbirefnet.cli.main import main
from mmbirefnet.engine.finetune import finetune
from mmbirefnet.engine.finetune_plan import choose_recipes, list_recipes
from mmbirefnet.engine.training_memory import estimate_memory
from mmbirefnet.fileio.checkpoints import read_state_dict
from mmbirefnet.registry import MODELS
from mmbirefnet.utils import check_fit, load_birefnet_state_dict

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope='module')
def small(tmp_path_factory):
    """A config and a checkpoint of its model."""
    folder = tmp_path_factory.mktemp('model')
    config = write_config(folder / 'small.py', more='optim_wrapper = dict(optimizer=dict(lr=1e-3))\n' + SMALL_MODEL)
    return config, write_model(folder / 'small.pth', config)


@pytest.mark.soak
def test_from_folder_to_weights(small, tool, tmp_path, capsys):
    """With everything decided for 10 images: some held out, old data mixed in, scores, images and weights."""
    config, checkpoint = small
    data, old = write_images(tmp_path / 'data', range(10)), write_images(tmp_path / 'old', range(20, 24), ('im', 'gt'))
    words = ['finetune', data, '-o', tmp_path / 'run', '--from', checkpoint, '--config', config]
    assert main([*map(str, words), '--epochs', '2', '--old-data', str(old)]) == 0
    out = tmp_path / 'run'
    result = json.loads((out / 'result.json').read_text())
    assert result['plan']['train_images'] == 8
    assert len(result['plan']['val_images']) == 2
    assert result['plan']['recipes'] == choose_recipes(8, soft=False)
    lines = capsys.readouterr().out
    assert '8 images to train on, 2 to validate on' in lines
    assert '| validation | before |' in lines
    assert '| validation | after |' in lines
    for name in ('contact_sheet.png', 'curves.png'):
        assert cv2.imread(str(out / name)).std() > 10, name
    assert len(list(out.glob('work_dir/*/first_batch.png'))) == 1

    start, trained = read_state_dict(checkpoint), read_state_dict(out / 'weights.pth')
    assert trained.keys() == start.keys()
    assert not torch.equal(trained['decode_head.conv_logits.weight'], start['decode_head.conv_logits.weight'])
    assert all(0 <= result[when]['MAE'] <= 1 for when in ('before', 'after'))

    cfg = Config.fromfile(out / 'config.py')  # an ordinary config
    assert cfg.train_dataloader.dataset.shares == [0.75, 0.25]
    runner = tool('train', out / 'config.py', '--work-dir', tmp_path / 'again')
    assert runner.epoch == 2
    assert len(runner.train_dataloader.dataset) == 8 + 3  # a quarter of old ones

    assert main([*map(str, words)]) == 2
    assert 'run: not empty' in capsys.readouterr().err


@pytest.mark.soak
def test_adapters(small, tmp_path):
    pytest.importorskip('peft')
    data = write_images(tmp_path / 'data', range(6))
    lines = []
    result = finetune(
        *(data, tmp_path / 'run', str(small[1]), 'lora'),
        config=small[0],
        epochs=1,
        options={'model.rank': 2},
        report=lines.append,
    )
    start, trained = read_state_dict(small[1]), read_state_dict(result.weights)
    changed = {key for key in start if not torch.equal(start[key], trained[key])}
    assert changed
    assert all(start[key].dim() in (2, 4) for key in changed)
    assert Path(result.adapters).stat().st_size < 0.2 * small[1].stat().st_size
    assert result.trained_parameters < 0.2 * sum(value.numel() for value in start.values())


def test_inverted_masks_stop_it(small, tmp_path):
    data = write_images(tmp_path / 'data', range(4), invert=True)
    with pytest.raises(ValueError, match=r'4 problems that ruin a training, such as .*0.png \(inverted.*--no-check'):
        finetune(data, tmp_path / 'run', str(small[1]), config=small[0], report=lambda line: None)
    assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize(
    ('option', 'value', 'name'),
    [
        ('custom_hooks', [dict(type='EMAHook', begin_epoch=2)], 'EMAHook begins (begin_epoch=2'),
        ('param_scheduler', [dict(type='LinearLR', begin=1, end=3)], 'LinearLR begins (begin=1'),
    ],
)
@pytest.mark.soak
def test_schedules_begin_before_the_last_epoch(small, tmp_path, option, value, name):
    config, checkpoint = small
    data = write_images(tmp_path / 'data', range(4))
    late = write_config(tmp_path / 'late.py', base=config, more=f'{option} = {value!r}\n')

    def plan(epochs):
        return finetune(
            *(data, tmp_path / 'run', str(checkpoint)),
            config=late,
            epochs=epochs,
            check=False,
            dry_run=True,
            report=lambda line: None,
        )

    with pytest.raises(ValueError, match=re.escape(f'--epochs 1: the training ends before {name} in the config)')):
        plan(1)
    assert plan(3).epochs == 3


@pytest.mark.soak
def test_again_into_a_folder_that_was_removed(small, tmp_path):
    data = write_images(tmp_path / 'data', range(4))
    for _ in range(2):
        result = finetune(
            *(data, tmp_path / 'run', str(small[1])), config=small[0], epochs=1, check=False, report=lambda line: None
        )
        (scalars,) = tmp_path.glob('run/work_dir/*/vis_data/scalars.json')
        assert 'loss' in scalars.read_text()
        assert Path(result.weights).exists()
        shutil.rmtree(tmp_path / 'run')


@pytest.mark.soak
def test_memory_decides_the_batch(small, tmp_path):
    """The batch gets smaller, then activations are computed again; the step keeps its images."""
    data = write_images(tmp_path / 'data', range(6))
    fixed, per_pixel = estimate_memory(Config.fromfile(small[0]).model)
    gib = 2**30

    def plan(memory, name):
        return finetune(
            *(data, tmp_path / name, str(small[1]), 'full'),
            config=small[0],
            memory=memory,
            check=False,
            dry_run=True,
            report=lambda line: None,
        )

    enough = (fixed + 2.5 * per_pixel * 64**2) / gib
    one = (fixed + 1.5 * per_pixel * 64**2) / gib
    larger = plan(enough, 'a')
    assert (larger.batch_size, larger.accumulate) == (2, 1)
    smaller = plan(one, 'c')
    assert (smaller.batch_size, smaller.accumulate, smaller.checkpointing) == (1, 2, False)
    assert Config.fromfile(tmp_path / 'c/config.py').optim_wrapper.accumulative_counts == 2
    with pytest.raises(ValueError, match=r'training at 64x64 takes about .* GiB for one image with checkpointing'):
        plan(0.5, 'd')


@pytest.mark.soak
def test_memory_grows_with_the_area(small):
    model = Config.fromfile(small[0]).model
    per_pixel = [estimate_memory(model, side=side)[1] for side in (128, 256)]
    assert per_pixel[0] == pytest.approx(per_pixel[1], rel=0.1)
    frozen = Config(dict(model=model)).model
    frozen.backbone.frozen_stages = 4
    assert estimate_memory(frozen, side=128)[1] < per_pixel[0]


@pytest.mark.soak
def test_recipes_are_configs(small, tmp_path):
    data = write_images(tmp_path / 'data', range(6))
    assert {'full', 'frozen_backbone', 'layerwise', 'lora', 'frozen_batchnorm', 'few_images', 'matting'} <= {
        *list_recipes()
    }
    for name in list_recipes():
        if name == 'lora':
            pytest.importorskip('peft')
        options = dict(config=small[0], check=False, dry_run=True, report=lambda line: None)
        finetune(data, tmp_path / name, str(small[1]), name, **options)
        cfg = Config.fromfile(tmp_path / name / 'config.py')
        steps = [step.type for step in cfg.train_dataloader.dataset.pipeline]
        assert ('mmbirefnet.CopyPaste' in steps) == (name == 'few_images')
        assert steps[-1] == 'mmbirefnet.PackDichotomousInputs'
        test_steps = [step.type for step in cfg.val_dataloader.dataset.pipeline]
        assert ('mmbirefnet.CoarseMask' in steps) == ('mmbirefnet.CoarseMask' in test_steps) == (name == 'guided')
        MODELS.build(cfg.model)
    with pytest.raises(ValueError, match='--recipe more: no such recipe; there are auto, few_images'):
        finetune(data, tmp_path / 'x', str(small[1]), 'more', **options)
    with pytest.raises(ValueError, match=r'--recipe lora\+guided: two of them change the class of the model'):
        finetune(data, tmp_path / 'x', str(small[1]), 'lora+guided', **options)


def test_recipe_keeps_its_hooks(small, tmp_path, monkeypatch):
    recipe = tmp_path / 'averaged.py'
    recipe.write_text("custom_hooks = [dict(type='EMAHook', momentum=0.01)]\n")
    monkeypatch.setattr('mmbirefnet.engine.finetune_plan.list_recipes', lambda: {'averaged': recipe})
    data = write_images(tmp_path / 'data', range(4))
    options = dict(config=small[0], check=False, memory=1000, dry_run=True, report=lambda line: None)
    finetune(data, tmp_path / 'run', str(small[1]), 'averaged', **options)
    hooks = Config.fromfile(tmp_path / 'run/config.py').custom_hooks
    assert [hook.type.removeprefix('mmbirefnet.') for hook in hooks] == [
        'EMAHook', 'FirstBatchHook', 'ValLossHook', 'EarlyStoppingHook',
    ]  # fmt: skip


def test_unknown_option_is_found_before_anything_is_written(small, tmp_path):
    data = write_images(tmp_path / 'data', range(4))
    options = {'optim_wraper.optimizer.lr': 1}
    with pytest.raises(ValueError, match='there is no setting optim_wraper; is it optim_wrapper'):
        finetune(data, tmp_path / 'run', str(small[1]), config=small[0], check=False, options=options)
    assert not (tmp_path / 'run').exists()


@pytest.mark.soak
def test_guided(small, tmp_path):
    """The scores before are those of the plain model, and the weights of the mask are trained."""
    data = write_images(tmp_path / 'data', range(6))
    options = dict(config=small[0], epochs=1, report=lambda line: None)
    plain = finetune(data, tmp_path / 'plain', str(small[1]), 'full', **options)
    guided = finetune(data, tmp_path / 'guided', str(small[1]), 'guided', **options)
    assert guided.before == plain.before
    start, trained = read_state_dict(small[1]), read_state_dict(guided.weights)
    assert {*trained} - {*start} == {'backbone.patch_embed.proj.mask_weight'}
    assert trained['backbone.patch_embed.proj.mask_weight'].abs().max() > 1e-3


@pytest.mark.soak
def test_other_depths_and_the_order_of_the_crops(tmp_path):
    """A Swin-T with 8 blocks in its third stage, as FeyNobg is a Swin-L with 24. Its values are zero."""
    state = {key: torch.zeros(()).to(value.dtype).expand(value.shape) for key, value in reference_state_dict().items()}
    stage = 'bb.layers.2.blocks.'
    more = {
        key.replace(f'{stage}{i - 2}.', f'{stage}{i}.'): state[key]
        for i in (6, 7)
        for key in state
        if f'{stage}{i - 2}.' in key
    }
    torch.save(state | more, tmp_path / 'deep.pth')
    finetune(
        *(write_images(tmp_path / 'data', range(4)), tmp_path / 'run', str(tmp_path / 'deep.pth'), 'full'),
        check=False,
        memory=1000,
        crop_order='columns',
        dry_run=True,
        report=lambda line: None,
    )
    cfg = Config.fromfile(tmp_path / 'run/config.py')
    assert tuple(cfg.model.backbone.arch.depths) == (2, 2, 8, 2)
    assert cfg.default_hooks.pretrained_checkpoint.crop_order == 'columns'
    check_fit(load_birefnet_state_dict(tmp_path / 'deep.pth'), cfg.model)


def test_commands_of_the_page():
    """Their options exist."""
    page = (ROOT / 'docs/en/user_guides/finetune.md').read_text('utf-8')
    commands = re.findall(r'^mmbirefnet (?:finetune|check) .+$', page, re.M)
    assert len(commands) >= 4
    for command in commands:
        name, *words = shlex.split(command)[1:]
        parser = argparse.ArgumentParser()
        importlib.import_module(f'mmbirefnet.cli.{name}').add_arguments(parser)
        args = parser.parse_args(words)
        if name == 'finetune' and args.recipe != 'auto':
            assert {*args.recipe.split('+')} <= {*list_recipes()}, command
    assert all(f'`{name}`' in page for name in list_recipes())
