"""Fine-tuning on one's own folder with tools/train.py, and the page that walks through it."""

import inspect
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from doc_blocks import blocks, commands
from golden import reference_state_dict
from mmengine.config import Config
from small_finetuning import SMALL_MODEL, SWIN_L, write_config, write_images, write_model

from mmbirefnet.registry import HOOKS, MODELS
from mmbirefnet.utils import convert_birefnet_state_dict

ROOT = Path(__file__).parents[2]
SWIN_T = ROOT / 'configs/birefnet/birefnet_swin-t_1xb4-20e_finetune-1024x1024.py'
NANO = ROOT / 'configs/birefnet_synthetic/birefnet_swin-nano_1xb4-3e_finetune-256x256.py'
ONE_EPOCH = 'train_cfg = dict(max_epochs=1)\n'


@pytest.fixture(scope='module')
def small(tmp_path_factory) -> tuple[Path, Path]:
    """The small config and a checkpoint of its model."""
    folder = tmp_path_factory.mktemp('finetune')
    config = write_config(folder / 'small.py', more=ONE_EPOCH + SMALL_MODEL)
    return config, write_model(folder / 'small.pth', config)


@pytest.fixture
def finetune(tool, small, tmp_path):
    """Trains with further --cfg-options; returns the runner and the checkpoint's parameters."""

    def run(*options, blur=0):
        config, checkpoint = small
        data = write_images(tmp_path / 'data', range(6), ('im', 'gt'), blur)
        runner = tool('train', config, '--cfg-options', f'data_root={data}', f'load_from={checkpoint}', *options)
        return runner, torch.load(checkpoint)['state_dict']

    return run


@pytest.mark.soak
def test_starts_from_the_checkpoint(finetune):
    """Without a learning rate it stays there; the held-out image is scored."""
    runner, start = finetune('optim_wrapper.optimizer.lr=0')
    assert runner.iter == 3  # five images in batches of two
    assert len(runner.val_dataloader.dataset) == 1
    for name, parameter in runner.model.named_parameters():
        assert torch.equal(parameter, start[name]), name
    assert 0 < runner.message_hub.get_scalar('val/MAE').current() < 1
    assert len(list(Path(runner.work_dir).glob('best_*_epoch_1.pth'))) == 2
    assert runner.message_hub.get_scalar('train/decode.loss_iou').current() > 0
    assert not runner.val_evaluator.metrics[0].soft_masks


@pytest.mark.soak
def test_frozen_stages_and_a_rate_for_a_part(finetune):
    runner, start = finetune(
        'model.backbone.frozen_stages=2',
        'optim_wrapper.optimizer.lr=0.01',
        'optim_wrapper.paramwise_cfg.custom_keys.backbone.lr_mult=0.1',
    )
    assert runner.model.multi_scale_input  # the frozen stages see both scales
    frozen = tuple(f'backbone.{part}.' for part in ('patch_embed', 'layers.0', 'layers.1', 'norm0', 'norm1'))
    rates = {}
    for group in runner.optim_wrapper.optimizer.param_groups:
        for parameter in group['params']:
            rates[parameter] = group['lr']
    for name, parameter in runner.model.named_parameters():
        if name.startswith(frozen):
            assert torch.equal(parameter, start[name]), name
            continue
        assert parameter.dim() == 1 or not torch.equal(parameter, start[name]), name
        assert rates[parameter] == pytest.approx(0.001 if name.startswith('backbone.') else 0.01), name


@pytest.mark.soak
def test_soft_masks_are_noticed(finetune):
    runner, _ = finetune(blur=4)
    weights = {type(loss).__name__: loss.loss_weight for loss in runner.model.decode_head.loss_decode}
    assert weights == dict(BCELoss=30.0, IoULoss=0.0, MAELoss=100.0, SSIMLoss=10.0)
    assert runner.message_hub.get_scalar('train/decode.loss_iou').current() == 0
    assert runner.val_evaluator.metrics[0].soft_masks


@pytest.mark.soak
def test_without_a_checkpoint(finetune):
    with pytest.raises(ValueError, match='fine-tuning needs a checkpoint'):
        finetune('load_from=None')


@pytest.mark.soak
def test_from_a_released_checkpoint(tool, tmp_path):
    """The reference's Swin-T parameters, under the names that it has, in the config of that model."""
    released = reference_state_dict()
    torch.save(released, tmp_path / 'released.pth')
    config = write_config(tmp_path / 'swin_t.py', SWIN_T, ONE_EPOCH)
    data = write_images(tmp_path / 'data', range(6), ('im', 'gt'))
    options = [f'data_root={data}', f'load_from={tmp_path / "released.pth"}']
    runner = tool(
        'train', config, '--cfg-options', *options, 'optim_wrapper.optimizer.lr=0', 'default_hooks.checkpoint=None'
    )
    start = convert_birefnet_state_dict(released)
    for name, parameter in runner.model.named_parameters():
        assert torch.equal(parameter, start[name]), name


PAGE = (ROOT / 'docs/en/user_guides/finetune.md').read_text('utf-8')


def test_options_of_the_page_exist():
    """Each names a setting that the config has, or one that mmengine reads; a test above uses the latter."""
    cfg = Config.fromfile(SWIN_L)
    options = [word for row in re.findall(r'^\| `(.+?)` \|', PAGE, re.M) for word in row.split() if '=' in word]
    assert len(options) > 5
    for option in options:
        key = option.partition('=')[0]
        if key.startswith('optim_wrapper.paramwise_cfg.custom_keys.'):
            continue
        *path, last = key.split('.')
        value = cfg
        for name in path:
            value = value[name]
        parameters = inspect.signature(MODELS.get(value.type)).parameters if path[0] == 'model' else value
        assert last in parameters, option
    assert '`default_hooks.soft_masks.masks=soft`' in PAGE
    cfg.merge_from_dict({'default_hooks.soft_masks.masks': 'soft'})
    assert HOOKS.build(cfg.default_hooks.soft_masks).soft
    for path in re.findall(r'(?:configs|tools)/[\w/.-]+\.py', PAGE):
        assert (ROOT / path).exists(), path


@pytest.mark.soak
def test_commands_of_the_fine_tuning_walkthrough(tool, tmp_path):
    """Its commands one after another, with fewer and smaller images, and a model of as few parameters."""
    config = write_config(tmp_path / NANO.name, NANO, ONE_EPOCH + SMALL_MODEL)
    write_model(tmp_path / 'work_dirs/demo/epoch_6.pth', config)
    make, transform, *walk = blocks('docs/en/user_guides/finetune.md', 'walk')
    ((_, *options),) = commands(make.replace('--dis-tr 100', '--dis-tr 6').replace('--size 384', '--size 80 96'))
    subprocess.run([sys.executable, ROOT / options[0], *options[1:]], check=True, capture_output=True)
    before = {path.name: cv2.imread(str(path)) for path in Path('work_dirs/finetune/data/DIS-TR/im').iterdir()}
    exec(transform)
    for path in Path('work_dirs/finetune/data/DIS-TR/im').iterdir():
        assert np.abs(255 - cv2.imread(str(path)).astype(int) - before[path.name]).mean() < 5
    scores = []
    for code in walk:
        ((_, script, config, *arguments),) = commands(code)
        assert config == str(NANO.relative_to(ROOT))
        runner = tool(Path(script).stem, tmp_path / NANO.name, *arguments)
        if script == 'tools/test.py':
            scores.append(runner.message_hub.get_scalar('test/MAE').current())
        else:
            assert runner.epoch == 1
            Path(runner.work_dir, 'epoch_3.pth').symlink_to(Path(runner.work_dir, 'epoch_1.pth'))
    assert scores[0] != scores[1]
