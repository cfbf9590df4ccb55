"""tools/test.py --resume: maps that are there are scored, not predicted again, and the scores are those of one run."""

import json
import os
import subprocess
import sys

import cv2
import numpy as np
import pytest
from processes import ROOT, free_port
from tiny_birefnet import write_folder

from mmbirefnet.fileio.checkpoints import write_checkpoint
from mmbirefnet.registry import MODELS

MEASURES = ('MAE', 'wFmeasure', 'Smeasure', 'maxFm', 'SAD')
MORE = "test_evaluator = dict(type='mmbirefnet.DichotomousMetric', measures=%s, soft_masks=True, num_workers=0)\n"
IMAGES = 5


@pytest.fixture
def folder(tmp_path):
    """A config, five images, and a checkpoint of random parameters."""
    import torch
    from mmengine.config import Config

    write_folder(tmp_path, MORE % list(MEASURES), **{'DIS-TR': 1, 'DIS-VD': IMAGES})
    torch.manual_seed(0)
    model = MODELS.build(Config.fromfile(tmp_path / 'tiny.py').model)
    write_checkpoint(tmp_path / 'a.pth', model.state_dict(), {})
    return tmp_path


@pytest.fixture
def test(folder, tool, monkeypatch):
    """Runs the tool in this process, and returns the scores and the number of images predicted."""
    monkeypatch.chdir(folder)

    def run(*options, checkpoint='a.pth', out='maps'):
        predicted = []
        cfg_options = ['--cfg-options', f'data_root={folder / "data"}', f'experiment_name=e{np.random.rand()}']  # noqa: NPY002
        words = ['test', 'tiny.py', checkpoint, '--work-dir', 'test', '--out', out, *options, *cfg_options]
        from mmbirefnet.models import BiRefNet

        predict = BiRefNet.predict
        monkeypatch.setattr(BiRefNet, 'predict', lambda *args: predicted.extend(args[1]) or predict(*args))
        runner = tool(*words)
        monkeypatch.setattr(BiRefNet, 'predict', predict)
        (path,) = (folder / 'test' / runner.timestamp).glob('*.json')
        scores = json.loads(path.read_text().splitlines()[-1])
        return {name: scores[name] for name in MEASURES}, len(predicted)

    return run


@pytest.mark.soak
def test_resumed_test_predicts_only_the_rest(test, folder):
    expected, predicted = test()
    assert predicted == IMAGES
    maps = sorted((folder / 'maps').glob('*.png'))
    assert len(maps) == IMAGES
    content = [path.read_bytes() for path in maps]
    maps[1].unlink()
    maps[3].write_bytes(content[3][: len(content[3]) // 2])  # cut off
    assert test('--resume') == (expected, 2)
    assert [path.read_bytes() for path in maps] == content
    times = [path.stat().st_mtime_ns for path in maps]
    assert test('--resume') == (expected, 0)
    assert [path.stat().st_mtime_ns for path in maps] == times
    assert test()[1] == IMAGES


@pytest.mark.soak
def test_only_maps_of_the_same_test_count(test, folder):
    (folder / 'maps').mkdir()
    cv2.imwrite(str(folder / 'maps/0001.png'), np.zeros((80, 96), np.uint8))
    assert test('--resume')[1] == IMAGES  # without a note of where maps are from
    with pytest.raises(SystemExit, match='maps: its predictions are of another test; fuse differ'):
        test('--resume', '--no-fuse')
    (folder / 'b.pth').write_bytes((folder / 'a.pth').read_bytes())
    with pytest.raises(SystemExit, match='checkpoint, modified differ'):
        test('--resume', checkpoint='b.pth')


def test_resume_needs_out(tool, folder, monkeypatch):
    monkeypatch.chdir(folder)
    with pytest.raises(SystemExit, match='--resume needs --out'):
        tool('test', 'tiny.py', 'a.pth', '--resume')


@pytest.mark.soak
def test_processes_share_what_is_left(test, folder):
    """The scores of several processes that go on are those of one."""
    expected, _ = test()
    for path in sorted((folder / 'maps').glob('*.png'))[1:4]:
        path.unlink()
    environment = os.environ | dict(
        CUDA_VISIBLE_DEVICES='', OMP_NUM_THREADS='1', PORT=free_port(), PYTHON=sys.executable, PYTHONPATH=str(ROOT),
        MMBIREFNET_DATA=str(folder / 'data'),
    )  # fmt: skip
    options = ['--work-dir', 'shared', '--out', 'maps', '--resume', '--cfg-options', f'data_root={folder / "data"}']
    words = [ROOT / 'tools/dist_test.sh', 'tiny.py', 'a.pth', 2, *options]
    done = subprocess.run(map(str, words), env=environment, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert '3 of 5 images are left to predict' in done.stdout + done.stderr
    (path,) = (folder / 'shared').glob('*/*.json')
    scores = json.loads(path.read_text().splitlines()[-1])
    assert {name: scores[name] for name in MEASURES} == expected
    assert len(list((folder / 'maps').glob('*.png'))) == IMAGES
