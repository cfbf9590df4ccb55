"""Commands and examples of the benchmark page that need neither DIS5K nor a checkpoint."""

import runpy
from pathlib import Path

import numpy as np
import pytest
from doc_blocks import ROOT, blocks, commands
from mmengine.config import Config
from PIL import Image

NAME = 'docs/en/user_guides/benchmark.md'
SCORING = [words for code in blocks(NAME, 'score') for words in commands(code)]


@pytest.mark.parametrize('words', SCORING, ids=lambda words: words[-1])
def test_scoring_commands_of_the_page(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mask = np.zeros((40, 48), np.uint8)
    mask[8:30, 10:40] = 255
    folders = [f'data/{name}/gt' for name in ('DIS5K/DIS-VD', 'DIS5K/DIS-TE1', 'Matting/TE-AM-2k')]
    folders += [
        'data/Matting/TE-AM-2k/trimap',
        *(f'{maps}/{name}' for maps in ('maps', 'others') for name in ('DIS-VD', 'DIS-TE1')),
    ]
    for folder in (*folders, 'maps/TE-AM-2k'):
        Path(folder).mkdir(parents=True)
        Image.fromarray(np.full_like(mask, 128) if folder.endswith('trimap') else mask).save(f'{folder}/a.png')
    monkeypatch.setattr('sys.argv', [*words[1:], '--workers', '0'])
    runpy.run_path(str(ROOT / words[1]), run_name='__main__')
    table = Path('eval_maps/table.md').read_text()
    assert '0.000' in table  # the maps are the masks


def test_visualizer(tmp_path):
    (code,) = blocks(NAME, 'visualizer')
    path = tmp_path / 'example.py'
    path.write_text(code.replace("_base_ = '", f"_base_ = '{ROOT}/configs/birefnet/"))
    assert [backend.type for backend in Config.fromfile(path).visualizer.vis_backends][-1] == 'TensorboardVisBackend'
