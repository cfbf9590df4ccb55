"""Check the tables of the tasks page against the configs."""

import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from doc_blocks import blocks, table
from mmengine.config import Config
from mmengine.runner import Runner

ROOT = Path(__file__).parents[2]
NAME = 'docs/en/user_guides/tasks.md'
PAGE = (ROOT / NAME).read_text('utf-8')
LOSSES = ('BCELoss', 'IoULoss', 'SSIMLoss', 'MAELoss')


def sets_of(cell):
    cell = cell.replace('DIS-TE1 to 4', 'DIS-TE1, DIS-TE2, DIS-TE3, DIS-TE4')
    cell = re.sub(r'TR- and TE- of ((?:[\w-]+, )*[\w-]+) and ([\w-]+)', _both_parts, cell)
    return cell.split(', ')


def _both_parts(match):
    names = [*match[1].split(', '), match[2]]
    return ', '.join(f'{part}-{name}' for name in names for part in ('TR', 'TE'))


RECIPES = {name: (weights, factors) for name, *weights, factors in table(NAME, 'losses')}
TASKS = table(NAME, 'config')


@pytest.mark.parametrize('row', TASKS, ids=[row[1].strip('`') for row in TASKS])
def test_task(row):
    link, released, losses, epochs, last_epochs, lr, tested = row
    name, folder = re.fullmatch(r'\[`(.+)`\]\((?:\.\./)+(.+)\)', link).groups()
    cfg = Config.fromfile(ROOT / folder / f'{name}.py')
    assert cfg.train_cfg.max_epochs == int(epochs)
    assert cfg.default_hooks.loss_schedule.last_epochs == int(last_epochs)
    assert cfg.optim_wrapper.optimizer.lr == pytest.approx(float(lr), rel=1e-3)
    assert cfg.test_dataloader.dataset.sets == sets_of(tested)
    weights, factors = RECIPES[losses]
    expected = {f'mmbirefnet.{loss}': float(weight) for loss, weight in zip(LOSSES, weights, strict=True) if weight}
    assert {loss.type: loss.loss_weight for loss in cfg.model.decode_head.loss_decode} == expected
    factors = dict(factor.split(' x') for factor in factors.split(', '))
    assert cfg.default_hooks.loss_schedule.factors == {f'{loss}Loss': float(factor) for loss, factor in factors.items()}
    models = yaml.safe_load((ROOT / folder / 'metafile.yml').read_text('utf-8'))['Models']
    weights = {model['Name'] for model in models if Path(model['Config']).stem == name} - {name}
    assert weights == set(re.findall('`(.+?)`', released))


def test_ablations():
    documented = {name.strip('`') for name, _ in table(NAME, 'name')}
    assert documented == {path.name.split('_')[0] for path in (ROOT / 'configs/birefnet_ablation').glob('*.py')}


@pytest.mark.parametrize(('name', 'sets'), table(NAME, 'data'), ids=lambda cell: cell[:9])
def test_training_sets(name, sets):
    size = re.search(r'\d+x\d+', name)
    file = f'{name.split("`")[1]}_{size[0] if size else "1024x1024"}.py'
    cfg = Config.fromfile(ROOT / 'configs/_base_/datasets' / file)
    assert sorted(cfg.train_dataloader.dataset.sets) == sorted(sets_of(sets))


@pytest.fixture
def example(tmp_path):
    """Builds the training loader of the page's Python example with a number, over images of one color."""

    def build(number):
        config = blocks('docs/en/user_guides/tasks.md', 'examples')[number]
        path = tmp_path / 'example.py'
        path.write_text(config.replace("'../", f"'{ROOT}/configs/"))
        cfg = Config.fromfile(path)
        for index in range(4):
            mask = np.zeros((40, 60), np.uint8)
            mask[10:30, 20:40] = 255
            for folder, pixels in (('im', np.full((40, 60, 3), 90, np.uint8)), ('gt', mask)):
                (tmp_path / 'mine' / folder).mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(tmp_path / 'mine' / folder / f'{index}.png'), pixels)
        loader = cfg.train_dataloader
        loader.update(batch_size=2, num_workers=0, persistent_workers=False)
        loader.dataset.sets = [str(tmp_path / 'mine')]
        return cfg, loader

    return build


def test_example_of_dynamic_sizes(example):
    cfg, loader = example(0)
    loader.batch_sampler.update(min_size=(64, 32), max_size=(192, 32))
    batches = list(Runner.build_dataloader(loader, seed=7))
    shapes = [{tuple(image.shape[1:]) for image in batch['inputs']} for batch in batches]
    assert [len(shape) for shape in shapes] == [1, 1]
    assert all(height == 32 and 64 <= width <= 192 for shape in shapes for height, width in shape)
    assert not cfg.env_cfg.cudnn_benchmark


def test_example_of_flat_backgrounds(example):
    _, loader = example(1)
    np.random.seed(7)  # noqa: NPY002, the transform draws from it; a shift near 0 keeps the color
    loader.dataset.pipeline[2].scale = (60, 40)
    for batch in Runner.build_dataloader(loader, seed=7):
        for image, sample in zip(batch['inputs'], batch['data_samples'], strict=True):
            mask = sample.gt_sem_seg.data[0] > 0
            assert (image[:, mask] == 90).all()
            (background,) = image[:, ~mask].T.unique(dim=0)
            assert background.tolist() != [90, 90, 90]
