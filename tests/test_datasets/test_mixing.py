"""Data in given shares."""

from collections import Counter

import numpy as np
import pytest
from doc_blocks import ROOT, blocks
from mmengine.config import Config

from mmbirefnet.datasets import DichotomousDataset, MixedDataset, ShareSampler
from mmbirefnet.registry import DATA_SAMPLERS


@pytest.fixture
def folders(tmp_path, write_pair):
    for name, count in (('new', 6), ('old', 10)):
        for index in range(count):
            write_pair(tmp_path / name, f'{"cats" if index % 2 else "dogs"}/{index}')
    return tmp_path


def dataset(folder, **options):
    return dict(type='mmbirefnet.DichotomousDataset', data_root=str(folder), pipeline=[], **options)


def test_new_data_whole_and_old_data_by_its_share(folders):
    mixed = MixedDataset([dataset(folders / 'new'), dataset(folders / 'old')], shares=[0.75, 0.25])
    assert len(mixed) == 8
    np.random.seed(0)  # noqa: NPY002
    epochs = [[mixed[i]['img_path'] for i in range(8)] for _ in range(20)]
    new = sorted(str(path) for path in (folders / 'new/im').rglob('*.jpg'))
    assert all(sorted(epoch[:6]) == new for epoch in epochs)
    old = {path for epoch in epochs for path in epoch[6:]}
    assert len(old) > 8
    assert all(path.startswith(str(folders / 'old')) for path in old)
    with pytest.raises(ValueError, match='sum is 1'):
        MixedDataset([dataset(folders / 'new')] * 2, shares=[0.75, 0.75])


def test_shares_of_folders(folders):
    data = DichotomousDataset(data_root=str(folders), sets=['new', 'old'], pipeline=[])
    sampler = ShareSampler(data, shares={'cats': 3, 'dogs': 1}, by='folder', seed=5)
    orders = []
    for epoch in range(2):
        sampler.set_epoch(epoch)
        order = list(sampler)
        orders.append(order)
        assert len(order) == len(sampler) == 16
        stems = [data.stem_of(data.get_data_info(i)['img_path']).partition('/')[0] for i in order]
        assert Counter(stems) == {'cats': 12, 'dogs': 4}
        cats = Counter(i for i, name in zip(order, stems) if name == 'cats')
        assert set(cats.values()) == {1, 2}
        assert len(cats) == 8
    assert orders[0] != orders[1]
    sampler.set_epoch(0)
    assert list(sampler) == orders[0]


def test_example_of_the_fine_tuning_page(tmp_path, write_pair):
    for index in range(6):
        write_pair(tmp_path, f'{"glass" if index % 3 else "hair"}/{index}')
    path = tmp_path / 'example.py'
    base = ROOT / 'configs/birefnet/birefnet_swin-t_8xb4-500e_dis5k-1024x1024.py'
    (code,) = blocks('docs/en/user_guides/finetune.md', 'sampler')
    path.write_text(f'_base_ = {str(base)!r}\n{code}')
    data = DichotomousDataset(data_root=str(tmp_path), pipeline=[])
    sampler = DATA_SAMPLERS.build(dict(Config.fromfile(path).train_dataloader.sampler, dataset=data, seed=5))
    folders = Counter(data.stem_of(data.get_data_info(i)['img_path']).partition('/')[0] for i in sampler)
    assert folders == {'hair': 3, 'glass': 3}


def test_shares_of_sets_over_processes(folders, monkeypatch):
    data = DichotomousDataset(data_root=str(folders), sets=['new', 'old'], pipeline=[])
    parts = []
    for rank in range(3):
        monkeypatch.setattr('mmbirefnet.datasets.samplers.get_dist_info', lambda rank=rank: (rank, 3))
        parts.append(list(ShareSampler(data, shares={'new': 1}, by='set_name', seed=1)))
    assert [len(part) for part in parts] == [6, 6, 6]  # 16 images, and two again
    names = {data.get_data_info(i)['set_name'] for part in parts for i in part}
    assert names == {'new'}


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(shares={'cats': 1}, by='color'), "by='color'"),
        (dict(shares={'cats': 0}, by='folder'), 'must be positive'),
        (dict(shares={'birds': 1}, by='folder'), 'no image with folder birds; there are cats, dogs'),
    ],
)
def test_bad_shares(folders, options, message):
    with pytest.raises(ValueError, match=message):
        ShareSampler(DichotomousDataset(data_root=str(folders / 'new'), pipeline=[]), **options)
