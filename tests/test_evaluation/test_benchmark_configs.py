"""Configs of the benchmarks: sets, published rows, checkpoint rules, logging backends."""

import csv
import logging
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from mmengine.config import Config
from mmengine.hooks import CheckpointHook

from mmbirefnet.engine.hooks import BenchmarkTableHook
from mmbirefnet.evaluation import MEASURES, lower_is_better
from mmbirefnet.evaluation.report import MEANS, TASK_COLUMNS, TEST_SETS, load_published, task_of, with_means

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / 'configs'
METAFILES = sorted(CONFIGS.glob('*/metafile.yml'))


@pytest.mark.parametrize('task', TEST_SETS)
def test_all_sets_are_tested(task):
    tested = []
    for name in [task.lower()] + ['portrait'] * (task == 'Matting'):
        cfg = Config.fromfile(CONFIGS / f'_base_/datasets/{name}_1024x1024.py')
        tested += cfg.test_dataloader.dataset.sets
        assert cfg.test_dataloader.dataset.skip_missing_sets
        assert task_of([cfg.val_dataloader.dataset.sets]) == task
    assert tuple(tested) == TEST_SETS[task]


def test_best_checkpoint_by_any_metric():
    options = Config.fromfile(CONFIGS / '_base_/default_runtime.py').default_hooks.checkpoint
    for metric in MEASURES:
        for key in (metric, f'CHAMELEON/{metric}'):
            assert make_hook(options, key).rules == ['less' if lower_is_better(metric) else 'greater'], key


def make_hook(options, save_best):
    options = {**options, 'save_best': save_best}
    options.pop('type')
    return CheckpointHook(**options)


def test_model_index_lists_all_metafiles():
    index = yaml.safe_load((ROOT / 'model-index.yml').read_text())
    assert sorted(index['Import']) == [path.relative_to(ROOT).as_posix() for path in METAFILES]


@pytest.mark.parametrize('path', METAFILES, ids=lambda path: path.parent.name)
def test_metafile(path):
    content = yaml.safe_load(path.read_text())
    collections = {c['Name'] for f in METAFILES for c in yaml.safe_load(f.read_text()).get('Collections', ())}
    for model in content['Models']:
        assert model['In Collection'] in collections
        assert Path(model['Config']).parent == Path('configs', path.parent.name)
        Config.fromfile(ROOT / model['Config'])
    for row in load_published(path):
        task = task_of([row.name])
        assert row.name in (*TEST_SETS[task], *MEANS)
        assert set(row.scores) <= set(TASK_COLUMNS[task])


def test_published_mean_is_that_of_its_sets():
    rows = load_published(CONFIGS / 'birefnet/metafile.yml', 'birefnet_swin-l_8xb4-500e_dis5k-1024x1024')
    scores = {row.name: row.scores for row in rows}
    for metric, value in with_means(scores)['DIS-TE(1-4)'].items():
        assert scores['DIS-TE(1-4)'][metric] == pytest.approx(value, abs=1e-3), metric  # rounded to three digits


@pytest.mark.parametrize(
    ('config', 'set_name', 'method', 'cells'),
    [
        ('birefnet/birefnet_swin-l_8xb4-500e_dis5k-1024x1024', 'DIS-TE4', 'BiRefNet-DIS5K', {'wFmeasure': '0.864'}),
        ('birefnet/birefnet_swin-l_8xb4-500e_dis5k-1024x1024', 'DIS-TE(1-4)', 'BiRefNet-DIS5K', {'MAE': '0.035'}),
        ('birefnet_hr/birefnet_swin-l_8xb2-200e_general-2048x2048', 'DIS-VD', 'BiRefNet_HR', {'HCE': '881'}),
        (
            'birefnet_hr/birefnet_swin-l_8xb2-150e_matting-2048x2048', 'TE-AM-2k', 'BiRefNet_HR-matting',
            {'MSE': '0.002'},
        ),
        (
            'birefnet_hrsod/birefnet_swin-l_8xb4-150e_hrsod-hrsod-uhrsd-1024x1024', 'TE-UHRSD', 'BiRefNet-HRSOD-HU',
            {'wFmeasure': '0.941', 'maxFm': '0.965'},
        ),
    ],
)  # fmt: skip
def test_table_shows_published_scores_beside_ours(tmp_path, config, set_name, method, cells):
    dataset = SimpleNamespace(metainfo={'sets': (set_name,)}, missing_sets=[])
    runner = SimpleNamespace(
        cfg=SimpleNamespace(filename=str(CONFIGS / f'{config}.py')),
        test_dataloader=SimpleNamespace(dataset=dataset),
        log_dir=str(tmp_path),
        logger=logging.getLogger('test'),
    )
    BenchmarkTableHook().after_test_epoch(runner, {f'{set_name}/{metric}': 0.5 for metric in MEASURES})
    ours, *published = csv.DictReader((tmp_path / 'benchmark.csv').read_text('utf-8').splitlines())
    assert ours['method'] == Path(config).name
    assert published
    for row in published:
        assert (row['set'], row['method']) == (set_name, f'{method} (published)')
        assert row['note']
        assert cells.items() <= row.items()


@pytest.mark.parametrize(('name', 'backend'), [('tensorboard', 'TensorboardVisBackend'), ('wandb', 'WandbVisBackend')])
def test_logging_backends(name, backend):
    cfg = Config.fromfile(CONFIGS / f'_base_/default_runtime_{name}.py')
    assert [b.type for b in cfg.visualizer.vis_backends] == ['LocalVisBackend', backend]
    assert cfg.visualizer.type == 'mmbirefnet.SoftMapVisualizer'
