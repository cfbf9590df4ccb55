"""tools/analysis_tools/compare_parts.py: which models it compares, and its table."""

import json
import runpy
import sys
from argparse import Namespace
from pathlib import Path

import pytest
from mmengine.registry import MODELS, DefaultScope

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope='module')
def tool():
    return runpy.run_path(str(ROOT / 'tools/analysis_tools/compare_parts.py'))


def test_table_of_means_and_sample_deviations(tool):
    results = {
        'BiRefNet': [dict(parameters=7_094_000, MAE=0.1, HCE=10.0), dict(parameters=7_094_000, MAE=0.3, HCE=14.0)],
        'no-context': [dict(parameters=1_000_000, MAE=0.25, HCE=3.0)],
    }
    assert tool['to_table'](results, ['MAE', 'HCE']).splitlines() == [
        '| model | parameters | MAE ↓ | HCE ↓ |',
        '| --- | ---: | ---: | ---: |',
        '| BiRefNet | 7.09 M | 0.200 ± 0.141 | 12 ± 3 |',
        '| without: context | 1.00 M | 0.250 | 3 |',
    ]


@pytest.mark.parametrize('model', ['FCN', 'SegFormer', 'UPerNet'])
def test_heads_have_as_many_parameters(tool, model, tmp_path):
    args = Namespace(size=64, epochs=1, measures=['MAE'], work_dir=tmp_path)
    counts = []
    for name in ('BiRefNet', model):
        cfg = tool['make_config'](name, args, 0)
        with DefaultScope.overwrite_default_scope('mmseg'):
            counts.append(sum(parameter.numel() for parameter in MODELS.build(cfg.model).parameters()))
    assert counts[1] == pytest.approx(counts[0], rel=0.01)


@pytest.mark.soak
def test_runs_are_not_repeated(tool, tmp_path, monkeypatch, capsys):
    data = tmp_path / 'data'
    runpy.run_path(str(ROOT / 'tools/dataset_converters/make_synthetic_dis.py'))['main'](
        [str(data), '--dis-tr', '88', '--dis-vd', '2', '--size', '64', '64']
    )
    options = [
        '--models',
        'no-context',
        'SegFormer',
        '--seeds',
        '1',
        '--size',
        '64',
        '--epochs',
        '1',
        '--measures',
        'MAE',
    ]
    arguments = ['compare_parts.py', str(data), '--work-dir', str(tmp_path / 'runs'), *options]
    monkeypatch.setattr(sys, 'argv', arguments)
    monkeypatch.setenv('MMBIREFNET_DATA', '')
    tool['main']()
    scores = json.loads((tmp_path / 'runs/SegFormer_seed0.json').read_text())
    assert 0 < scores['MAE'] < 1
    assert f'| SegFormer | {scores["parameters"] / 1e6:.2f} M | {scores["MAE"]:.3f} |' in capsys.readouterr().out
    (tmp_path / 'runs/SegFormer_seed0.json').write_text(json.dumps(dict(scores, MAE=0.5)))
    tool['main']()
    assert f'| SegFormer | {scores["parameters"] / 1e6:.2f} M | 0.500 |' in capsys.readouterr().out
