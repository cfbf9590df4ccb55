"""Several sets in one test, the table beside it, the best checkpoint by any metric, and the ranking of checkpoints."""

import json
import re
import runpy
from pathlib import Path

import cv2
import numpy as np
import pytest

from mmbirefnet.evaluation.scoring import check_measures

ROOT = Path(__file__).parents[2]

CONFIG = """
default_scope = 'mmseg'
env_cfg = dict(mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0))
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor', mean=[127.5] * 3, std=[127.5] * 3, size=(32, 32), test_cfg=dict(size_divisor=32)),
    backbone=dict(
        type='ResNet', depth=18, base_channels=4, stem_channels=4, num_stages=1, strides=(1,), dilations=(1,),
        out_indices=(0,), norm_cfg=dict(type='GN', num_groups=1)),
    decode_head=dict(
        type='FCNHead', in_channels=4, channels=4, num_convs=1, num_classes=2, out_channels=1, threshold=0.5,
        dropout_ratio=0, norm_cfg=dict(type='GN', num_groups=1),
        loss_decode=dict(type='mmbirefnet.BCELoss')),
    test_cfg=dict(mode='whole'))
pipeline = [
    dict(type='mmbirefnet.LoadImage'), dict(type='mmbirefnet.Resize', scale=(32, 32)), dict(type='mmbirefnet.LoadMask'),
    dict(type='mmbirefnet.PackDichotomousInputs')]
train_pipeline = [pipeline[0], pipeline[2], pipeline[1], pipeline[3]]
dataset = dict(type='mmbirefnet.DIS5KDataset', data_root='{{$MMBIREFNET_DATA:nowhere}}')
train_dataloader = dict(
    batch_size=2, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(**dataset, sets='DIS-TR', pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=1, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(**dataset, sets='DIS-VD', test_mode=True, pipeline=pipeline))
test_dataloader = dict(
    batch_size=1, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        **dataset, sets=['DIS-VD', 'DIS-TE1', 'DIS-TE2', 'DIS-TE3', 'DIS-TE4'], skip_missing_sets=True, test_mode=True,
        pipeline=pipeline))
val_evaluator = dict(type='mmbirefnet.DichotomousMetric', measures=['wFmeasure', 'HCE'])
test_evaluator = dict(type='mmbirefnet.DichotomousMetric', num_workers=1)
train_cfg = dict(by_epoch=True, max_epochs=3, val_interval=1)
val_cfg = dict()
test_cfg = dict()
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.5))
randomness = dict(seed=0)
default_hooks = dict(
    logger=dict(type='LoggerHook', interval=2),
    checkpoint=dict(type='CheckpointHook', interval=1, save_best=['wFmeasure', 'HCE'], rule=['greater', 'less']),
    soft_maps=dict(type='mmbirefnet.SoftMapHook', images=1),
    table=dict(type='mmbirefnet.BenchmarkTableHook'))
log_processor = dict(by_epoch=True)
visualizer = dict(type='mmbirefnet.SoftMapVisualizer', vis_backends=[dict(type='LocalVisBackend')])
"""


@pytest.fixture
def setup(tmp_path, monkeypatch):
    """A config; DIS-TR, DIS-VD, DIS-TE1, DIS-TE2 with two images each."""
    rng = np.random.default_rng(0)
    for set_name in ('DIS-TR', 'DIS-VD', 'DIS-TE1', 'DIS-TE2'):
        for index in range(2):
            mask = np.zeros((40, 30), np.uint8)
            cv2.circle(mask, tuple(map(int, rng.integers(8, 22, 2))), 9, 255, -1)
            image = (mask[..., None] // 3 + rng.integers(0, 120, (40, 30, 3))).astype(np.uint8)
            for folder, pixels in (('im', image), ('gt', mask)):
                path = tmp_path / 'data' / set_name / folder / f'{set_name}_{index}.png'
                path.parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(path), pixels)
    metafile = tmp_path / 'metafile.yml'
    result = '  - {{Dataset: {}, Metrics: {{Smeasure: 0.898}}, Source: the paper}}\n'
    metafile.write_text('Models:\n- Name: m\n  Results:\n' + result.format('DIS-VD') + result.format('NC4K'))
    config = tmp_path / 'multi_set.py'
    config.write_text(CONFIG)
    monkeypatch.setenv('MMBIREFNET_DATA', str(tmp_path / 'data'))
    return config


def rank_checkpoints(monkeypatch, *arguments):
    monkeypatch.setattr('sys.argv', ['rank_checkpoints', *map(str, arguments)])
    runpy.run_path(str(ROOT / 'tools/analysis_tools/rank_checkpoints.py'))['main']()


@pytest.mark.soak
def test_train_test_and_rank(tool, setup, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv('MMBIREFNET_DATA', str(tmp_path / 'data'))
    run = tmp_path / 'run'
    tool('train', setup, '--work-dir', run, '--cfg-options', 'experiment_name=benchmark_train')

    # The best by a metric of which more, and by one of which less is better.
    (log,) = run.glob('*/vis_data/scalars.json')
    logged = {e['step']: e for e in map(json.loads, log.read_text().splitlines()) if 'HCE' in e}
    assert set(logged) == {1, 2, 3}
    best = {m: pick(logged, key=lambda s, m=m: logged[s][m]) for m, pick in (('wFmeasure', max), ('HCE', min))}
    for metric, step in best.items():
        assert (run / f'best_{metric}_epoch_{step}.pth').is_file()
    assert {p.name for p in run.rglob('val_*.png')} == {f'val_DIS-VD_0_{epoch}.png' for epoch in (1, 2, 3)}

    rank_checkpoints(monkeypatch, run, '--metrics', 'HCE')
    assert f'| 1 | epoch_{best["HCE"]}.pth |' in capsys.readouterr().out
    with pytest.raises(SystemExit):
        rank_checkpoints(monkeypatch, run, '--metrics', 'MAE')
    assert 'without scores on MAE (see --evaluate): epoch_1.pth' in capsys.readouterr().out
    rank_checkpoints(monkeypatch, run, '--metrics', 'MAE', 'HCE', '--evaluate', '--config', setup)
    measured = json.loads((run / 'validations.json').read_text())
    assert set(measured) == {'1', '2', '3'}
    assert measured['2']['HCE'] == logged[2]['HCE']
    assert measured['2']['wFmeasure'] == pytest.approx(logged[2]['wFmeasure'], abs=1e-4)

    out = tmp_path / 'maps'
    options = ['--work-dir', tmp_path / 'test', '--out', out, '--cfg-options', 'experiment_name=benchmark_test']
    runner = tool('test', setup, run / 'epoch_3.pth', *options)
    assert runner.test_dataloader.dataset.missing_sets == ['DIS-TE3', 'DIS-TE4']
    assert len(list(out.glob('DIS-TE2/*.png'))) == 2
    (table,) = (tmp_path / 'test').glob('*/benchmark.md')
    lines = [[cell.strip() for cell in line.split('|')[1:-1]] for line in table.read_text().splitlines()]
    assert [(line[0], line[1], line[-1]) for line in lines[2:]] == [
        ('DIS-VD', 'multi_set', ''),
        ('DIS-VD', 'm (published)', 'the paper'),
        ('DIS-TE1', 'multi_set', ''),
        ('DIS-TE2', 'multi_set', ''),
        ('DIS-TE3', 'multi_set', 'not on disk'),
        ('DIS-TE4', 'multi_set', 'not on disk'),
    ]
    # Each set by itself, as if it were alone.
    validated = measured['3']
    assert lines[2][2:8] == [
        f'{validated[m]:.0f}' if m == 'HCE' else f'{validated[m]:.3f}'
        for m in ('maxFm', 'wFmeasure', 'MAE', 'Smeasure', 'meanEm', 'HCE')
    ]
    log = next((tmp_path / 'test').glob('*/*.log')).read_text()
    assert 'left out 2 sets: DIS-TE3, DIS-TE4' in log
    assert all(f'DIS-TE1/{metric}: ' in log for metric in check_measures(None))
    assert re.search(r'Epoch\(test\) \[4/6\] +eta: ', log)
