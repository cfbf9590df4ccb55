"""Starting from checkpoints of the reference's form, and refusing what does not fit."""

import json
import logging
from types import SimpleNamespace

import pytest
import torch
from golden import model_config, reference_state_dict
from mmengine.runner.checkpoint import CheckpointLoader
from safetensors.torch import save_file
from torch import nn

from mmbirefnet.engine.hooks import PretrainedCheckpointHook
from mmbirefnet.registry import MODELS
from mmbirefnet.utils import convert_birefnet_state_dict


def runner_of(model) -> SimpleNamespace:
    return SimpleNamespace(model=model, logger=logging.getLogger('test'), _load_from='some.pth')


@pytest.fixture(scope='module')
def released() -> dict:
    return reference_state_dict(classifier=True)


@pytest.fixture(scope='module')
def swin_t():
    with torch.device('meta'):
        return MODELS.build(model_config())


@pytest.mark.parametrize('wrap', [dict, lambda state: dict(state_dict=state)], ids=['alone', 'nested'])
def test_reference_parameters_are_converted(released, swin_t, wrap):
    """Those of the classifier, which fine-tuning does without, may be left over; the model may be wrapped."""
    checkpoint = wrap({f'module.{key}': value for key, value in released.items()})
    hook, wrapper = PretrainedCheckpointHook(), nn.Module()
    wrapper.module = swin_t
    hook.after_load_checkpoint(runner_of(wrapper), checkpoint)
    expected = convert_birefnet_state_dict(released)
    assert checkpoint.keys() == {'state_dict'}
    assert checkpoint['state_dict'].keys() == expected.keys()
    assert all(torch.equal(value, expected[key]) for key, value in checkpoint['state_dict'].items())
    hook.before_train(runner_of(swin_t))


@pytest.mark.parametrize(
    ('file', 'options', 'order'),
    [
        ('some.pth', {}, 'rows'),
        ('BiRefNet_lite.pth', {}, 'columns'),
        ('BiRefNet_lite.pth', dict(crop_order='rows'), 'rows'),
        ('some.pth', dict(crop_order='columns'), 'columns'),
    ],
)
def test_order_of_the_crops(released, swin_t, file, options, order):
    """Random weights do not show it, so that the file's name or the option decides."""
    checkpoint, runner = dict(released), runner_of(swin_t)
    runner._load_from = file
    PretrainedCheckpointHook(**options).after_load_checkpoint(runner, checkpoint)
    key = 'decode_head.blocks.2.inward.conv_in.weight'
    assert torch.equal(checkpoint['state_dict'][key], convert_birefnet_state_dict(released, order)[key])


@pytest.mark.parametrize('place', ['header', 'config.json'])
def test_order_that_we_wrote(released, swin_t, tmp_path, place):
    """It has priority over that of the released model with the same name."""
    facts, folder = dict(crop_order='rows'), tmp_path / 'BiRefNet_lite'
    folder.mkdir()
    metadata = dict(mmbirefnet=json.dumps(facts)) if place == 'header' else None
    save_file({'a': torch.zeros(1)}, folder / 'model.safetensors', metadata)  # the hook gets its parameters below
    if place == 'config.json':
        (folder / place).write_text(json.dumps(dict(mmbirefnet=facts)))
    checkpoint, runner = dict(released), runner_of(swin_t)
    runner._load_from = str(folder)
    PretrainedCheckpointHook().after_load_checkpoint(runner, checkpoint)
    key = 'decode_head.blocks.2.inward.conv_in.weight'
    assert torch.equal(checkpoint['state_dict'][key], convert_birefnet_state_dict(released, 'rows')[key])


def test_prefixes_of_own_checkpoints_are_stripped():
    model = nn.Linear(2, 3)
    checkpoint = dict(state_dict={f'_orig_mod.{key}': value for key, value in model.state_dict().items()})
    PretrainedCheckpointHook().after_load_checkpoint(runner_of(model), checkpoint)
    assert checkpoint['state_dict'].keys() == {'weight', 'bias'}


def test_of_another_size(released):
    with torch.device('meta'):
        model = MODELS.build(model_config(arch='s'))
    with pytest.raises(ValueError, match=r'some\.pth: .* missing \(\d+\): backbone.layers.2.blocks.6'):
        PretrainedCheckpointHook().after_load_checkpoint(runner_of(model), dict(released))


def test_incomplete_checkpoint_is_rejected(released, swin_t):
    part = {key: value for key, value in released.items() if not key.startswith('decoder.')}
    with pytest.raises(ValueError, match=r'some\.pth: not a BiRefNet checkpoint'):
        PretrainedCheckpointHook().after_load_checkpoint(runner_of(swin_t), part)


def test_own_checkpoints_are_left_alone():
    model = nn.Linear(2, 3)
    checkpoint = dict(meta=dict(epoch=1), state_dict=model.state_dict(), message_hub={})
    before = dict(checkpoint)
    hook = PretrainedCheckpointHook()
    hook.after_load_checkpoint(runner_of(model), checkpoint)
    assert checkpoint == before
    hook.before_train(runner_of(model))
    del checkpoint['state_dict']['bias']
    with pytest.raises(ValueError, match=r'missing \(1\): bias'):
        hook.after_load_checkpoint(runner_of(model), checkpoint)


def test_training_from_scratch_is_refused():
    with pytest.raises(ValueError, match='fine-tuning needs a checkpoint. Fix: --cfg-options load_from=FILE'):
        PretrainedCheckpointHook().before_train(runner_of(nn.Linear(2, 3)))


def test_mmengine_reads_safetensors(tmp_path):
    path, state = tmp_path / 'model.safetensors', {'a.weight': torch.randn(2, 3), 'b': torch.arange(4)}
    save_file(state, path)
    found = CheckpointLoader.load_checkpoint(str(path), map_location='cpu')
    assert found['state_dict'].keys() == state.keys()
    assert all(torch.equal(found['state_dict'][key], value) for key, value in state.items())
