"""The notebooks run, on generated images and with small models."""

import json

import cv2
import numpy as np
import pytest
import torch
from doc_blocks import ROOT
from mmengine.config import Config
from PIL import Image
from small_images import SMALL_IMAGES

from mmbirefnet.datasets.preparation.synthetic import make_sample
from mmbirefnet.fileio.checkpoints import write_checkpoint
from mmbirefnet.registry import MODELS

FOLDER = ROOT / 'docs/en/notebooks'
NOTEBOOKS = sorted(FOLDER.glob('*.ipynb'))
LARGEST_OUTPUTS = 8192  # bytes


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run the code cells of a notebook in an empty folder, and return their variables.

    As in papermill, ``parameters`` replace those of the cell with this tag. The cells are plain Python, so that neither
    Jupyter nor a kernel is needed.
    """
    monkeypatch.chdir(tmp_path)

    def run(name: str, **parameters) -> dict:
        variables = {}
        for cell in json.loads((FOLDER / f'{name}.ipynb').read_text('utf-8'))['cells']:
            if cell['cell_type'] == 'code':
                exec(compile(''.join(cell['source']), f'{name}.ipynb', 'exec'), variables)
                if 'parameters' in cell['metadata'].get('tags', ()):
                    assert parameters.keys() <= variables.keys()
                    variables |= parameters
        return variables

    return run


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda path: path.stem)
def test_saved_outputs_are_small(path):
    notebook = json.loads(path.read_text('utf-8'))
    assert notebook['nbformat'] == 4
    cells = [cell for cell in notebook['cells'] if cell['cell_type'] == 'code']
    assert len(json.dumps([cell['outputs'] for cell in cells])) < LARGEST_OUTPUTS
    assert sum('parameters' in cell['metadata'].get('tags', ()) for cell in cells) == 1
    assert f'notebooks/{path.name}' in (ROOT / 'docs/en/notebooks.md').read_text('utf-8')


@pytest.mark.soak
def test_cut_out(run, trained_checkpoint, tmp_path):
    sample = make_sample(0, 'DIS-VD', 1, (96, 96))
    cv2.imwrite(str(tmp_path / 'photo.jpg'), sample.image)
    found = run('cut_out', CONFIG=str(trained_checkpoint.config), MODEL=str(trained_checkpoint.checkpoint))
    overlap = np.logical_and(found['probability'] > 0.5, sample.mask > 0).sum()
    assert overlap / np.logical_or(found['probability'] > 0.5, sample.mask > 0).sum() > 0.5
    assert Image.open('cutout.png').mode == Image.open('soft.png').mode == 'RGBA'
    corner = np.asarray(Image.open('on_orange/photo.png').convert('RGB'))[0, 0]
    assert np.abs(corner.astype(int) - (255, 153, 0)).max() < 20


@pytest.mark.soak
def test_fine_tune(run, tmp_path):
    base = ROOT / 'configs/birefnet_synthetic/birefnet_swin-nano_1xb4-3e_finetune-256x256.py'
    config = tmp_path / 'small.py'
    workers = 'val_evaluator = dict(num_workers=0)\ntest_evaluator = dict(num_workers=0)\n'
    config.write_text(f'_base_ = {str(base)!r}\n{SMALL_IMAGES}{workers}')
    torch.manual_seed(0)
    write_checkpoint(tmp_path / 'small.pth', MODELS.build(Config.fromfile(config).model).state_dict(), {})
    for name in ('im', 'gt'):
        (tmp_path / 'my_data' / name).mkdir(parents=True)
    for index in range(8):
        sample = make_sample(0, 'own', index, (80, 96))
        cv2.imwrite(f'my_data/im/{index}.jpg', sample.image)
        cv2.imwrite(f'my_data/gt/{index}.png', sample.mask)
    run('fine_tune', CONFIG=str(config), MODEL='small.pth', OPTIONS=dict(epochs=1))
    assert (tmp_path / 'run/scores.md').read_text().count('|') > 10
    assert len([*(tmp_path / 'cutouts').iterdir()]) == 1


@pytest.mark.soak
def test_birefhead(run):
    found = run('birefhead', SIZE=(64, 96), ITERATIONS=4)
    assert found['runner'].iter == 4
    assert found['probability'].shape == (64, 96)
    assert 0 <= found['probability'].min() < found['probability'].max() <= 1
