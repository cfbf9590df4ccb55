"""The command as installed, its sub-commands, and the demo, on a trained checkpoint."""

import argparse
import gc
import os
import runpy
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from golden import reference_state_dict
from pico import iou
from PIL import Image

from mmbirefnet.cli import main
from mmbirefnet.cli.options import add_model_arguments, inferencer_of, without_garbage_collection
from mmbirefnet.datasets.preparation.synthetic import make_sample
from mmbirefnet.utils import load_birefnet_state_dict
from mmbirefnet.version import __version__

ROOT = Path(__file__).parents[2]


@pytest.fixture
def drawing(tmp_path):
    """A drawing in a file, and its mask."""
    sample = make_sample(0, 'DIS-VD', 6, (120, 160))
    cv2.imwrite(str(tmp_path / 'gear.jpg'), sample.image)
    return tmp_path / 'gear.jpg', sample.mask


@pytest.mark.soak
def test_cut_end_to_end(trained_checkpoint, drawing, tmp_path, monkeypatch):
    """In a process of its own, as users call it: a real cut-out."""
    path, mask = drawing
    environment = os.environ | {'MMBIREFNET_CHECKPOINT': str(trained_checkpoint.checkpoint), 'PYTHONPATH': str(ROOT)}
    words = ['cut', path, '-o', tmp_path / 'out', '--config', trained_checkpoint.config, '--device', 'cpu']
    command = [sys.executable, '-m', 'mmbirefnet.cli.main', *map(str, words)]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith('1 written, 0 skipped, 0 failed')
    assert done.stderr == ''
    cutout = np.asarray(Image.open(tmp_path / 'out/gear.png'))
    assert cutout.shape == (120, 160, 4)
    assert iou(cutout[..., 3] / 255, mask) > 0.65


def test_image_demo(trained_checkpoint, drawing, tmp_path, monkeypatch, capsys):
    path, mask = drawing
    words = [path, *trained_checkpoint, '--out-file', tmp_path / 'x/mask.png', '--save', 'mask', '--device', 'cpu']
    monkeypatch.setattr('sys.argv', ['image_demo.py', *map(str, words)])
    runpy.run_path(str(ROOT / 'demo/image_demo.py'), run_name='__main__')
    assert iou(np.asarray(Image.open(tmp_path / 'x/mask.png')) / 255, mask) > 0.65
    assert 'mask.png' in capsys.readouterr().out


@pytest.mark.soak
def test_convert(tmp_path, capsys):
    state = reference_state_dict()
    torch.save(state, tmp_path / 'released.pth')
    words = ['convert', str(tmp_path / 'released.pth'), str(tmp_path / 'ours.pth')]
    assert main.main(words) == 0
    assert 'birefnet_swin-t_' in capsys.readouterr().out
    converted = load_birefnet_state_dict(tmp_path / 'ours.pth')
    assert torch.equal(converted['backbone.patch_embed.proj.weight'], state['bb.patch_embed.proj.weight'])
    assert main.main(words) == 2
    assert 'already exists. Fix: --overwrite' in capsys.readouterr().err
    assert main.main([*words, '--overwrite', '--crop-order', 'columns']) == 0
    assert 'crops:     stacked by columns' in capsys.readouterr().out
    key, ours = 'decoder.ipt_blk3.conv1.weight', 'decode_head.blocks.2.inward.conv_in.weight'
    reordered = load_birefnet_state_dict(tmp_path / 'ours.pth')[ours]
    assert not torch.equal(reordered, state[key])
    back = ['convert', str(tmp_path / 'ours.pth'), str(tmp_path / 'theirs.pth'), '--to', 'reference']
    assert main.main(back) == 0
    assert torch.equal(torch.load(tmp_path / 'theirs.pth', weights_only=True)[key], reordered)
    assert main.main(back) == 2


def test_commands_are_listed(capsys):
    for words, status in (['--help'], 0), (['nonsense'], 2), ([], 2), (['--version'], 0), (['cut', '--help'], 0):
        with pytest.raises(SystemExit) as caught:
            main.main(words)
        assert caught.value.code == status
    captured = capsys.readouterr()
    for command in main.COMMANDS:
        assert f'\n  {command} ' in captured.out
    assert f'mmbirefnet {__version__}' in captured.out
    assert "invalid choice: 'nonsense'" in captured.err


@pytest.mark.parametrize('words', [['--help'], ['models', '--help']])
def test_help_on_an_ascii_terminal(words):
    command = [sys.executable, '-m', 'mmbirefnet.cli.main', *words]
    done = subprocess.run(command, env=os.environ | dict(PYTHONIOENCODING='ascii:strict'), capture_output=True)
    assert (done.returncode, done.stderr) == (0, b'')
    assert rb'\u2026' in done.stdout


def test_console_script_is_declared():
    setup = (ROOT / 'setup.py').read_text('utf-8')
    assert "'console_scripts': ['mmbirefnet = mmbirefnet.cli.main:main']" in setup


@pytest.mark.parametrize('error', [None, OSError('no such model')])
def test_garbage_is_collected_again_once_the_model_is_loaded(error):
    before = gc.get_freeze_count()
    try:
        with without_garbage_collection():
            assert not gc.isenabled()
            loaded = [[]]
            if error:
                raise error
    except OSError:
        pass
    assert gc.isenabled()
    assert gc.get_freeze_count() > before
    assert not any(each is loaded for each in gc.get_objects())


def test_models_are_loaded_without_garbage_collection(monkeypatch):
    enabled = []
    monkeypatch.setattr('mmbirefnet.cli.options.BiRefNetInferencer', lambda *_, **__: enabled.append(gc.isenabled()))
    parser = argparse.ArgumentParser()
    add_model_arguments(parser)
    inferencer_of(parser.parse_args([]))
    assert enabled == [False]
