"""Configs of the benchmarks: sets, published rows, checkpoint rules, logging backends."""

from pathlib import Path

import pytest
import yaml
from mmengine.config import Config
from mmengine.hooks import CheckpointHook

from mmbirefnet.evaluation.report.published import load_published
from mmbirefnet.evaluation.report.tables import TASK_COLUMNS, TEST_SETS, task_of
from mmbirefnet.evaluation.scoring import LOWER_IS_BETTER, METRICS

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
    for metric in METRICS:
        for key in (metric, f'CHAMELEON/{metric}'):
            assert make_hook(options, key).rules == ['less' if metric in LOWER_IS_BETTER else 'greater'], key


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
        assert model['Config'] == f'configs/{path.parent.name}/{model["Name"]}.py'
        Config.fromfile(ROOT / model['Config'])
    for row in load_published(path):
        task = task_of([row.name])
        assert row.name in TEST_SETS[task]
        assert set(row.scores) <= set(TASK_COLUMNS[task])


@pytest.mark.parametrize(('name', 'backend'), [('tensorboard', 'TensorboardVisBackend'), ('wandb', 'WandbVisBackend')])
def test_logging_backends(name, backend):
    cfg = Config.fromfile(CONFIGS / f'_base_/default_runtime_{name}.py')
    assert [b.type for b in cfg.visualizer.vis_backends] == ['LocalVisBackend', backend]
    assert cfg.visualizer.type == 'mmbirefnet.SoftMapVisualizer'
