"""Packed sets give the training pipeline the very same inputs."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine import fileio
from mmengine.dataset import pseudo_collate
from torch.utils.data import DataLoader

from mmbirefnet.datasets import DichotomousDataset
from mmbirefnet.datasets.preparation.packing import pack

TOOL = Path(__file__).parents[3] / 'tools/dataset_converters/pack_dataset.py'
SIZE = (40, 56)
PIPELINE = [
    dict(type='mmbirefnet.LoadImage'),
    dict(type='mmbirefnet.LoadMask'),
    dict(type='mmbirefnet.Resize', scale=SIZE),
    dict(type='mmbirefnet.PackDichotomousInputs'),
]


@pytest.fixture
def root(tmp_path, write_pair):
    """Sets A, of two images and one with a 16-bit mask, and F/B."""
    root = tmp_path / 'data'
    write_pair(root / 'A', '1')
    write_pair(root / 'A', 'sub/ä 2', image_suffix='.png')
    fine = np.random.default_rng(0).integers(0, 65536, (24, 32), np.uint16)
    write_pair(root / 'A', 'fine', mask=fine)
    write_pair(root / 'F/B', '1')
    return root


def inputs(data_root, sets='A', workers=0):
    data = DichotomousDataset(str(data_root), sets=sets, pipeline=PIPELINE)
    batches = DataLoader(data, collate_fn=pseudo_collate, num_workers=workers)
    return {
        Path(batch['data_samples'][0].img_path).stem: (
            batch['inputs'][0],
            batch['data_samples'][0].gt_sem_seg.data,
            batch['data_samples'][0].set_name,
        )
        for batch in batches
    }


def assert_same(first, second, fine=0.0):
    assert list(first) == list(second)
    for stem, (image, mask, set_name) in first.items():
        assert torch.equal(second[stem][0], image)
        assert (second[stem][1] - mask).abs().max() <= (fine if stem == 'fine' else 0)
        assert second[stem][2] == set_name


@pytest.mark.parametrize('workers', [0, 1])
def test_lmdb_gives_the_same_inputs(root, tmp_path, workers):
    assert pack(str(root), str(tmp_path / 'all.lmdb'), processes=1) == 4
    assert_same(inputs(root), inputs(f'lmdb://{tmp_path}/all.lmdb', workers=workers))
    assert_same(inputs(root, 'F/B'), inputs(f'lmdb://{tmp_path}/all.lmdb', 'F/B'))


@pytest.mark.parametrize('out', ['small', 'small.lmdb'])
def test_resized_gives_the_same_inputs(root, tmp_path, out):
    """But for 16-bit masks, rounded to 1/65535."""
    pack(str(root), str(tmp_path / out), names=['A'], size=SIZE, processes=1)
    place = f'lmdb://{tmp_path}/{out}' if out.endswith('.lmdb') else tmp_path / out
    assert_same(inputs(root), inputs(place), fine=0.5001 / 65535)
    assert not fileio.isdir(fileio.join_path(str(place), 'F'))


def test_jpeg(root, tmp_path):
    pack(str(root), str(tmp_path / 'small'), names=['A'], size=SIZE, jpeg_quality=95, processes=1)
    plain, packed = inputs(root), inputs(tmp_path / 'small')
    for stem, (image, mask, _) in plain.items():
        assert 0 < (packed[stem][0].float() - image.float()).abs().mean() < 40  # noise, JPEG's worst
        assert (packed[stem][1] - mask).abs().max() <= 0.5001 / 65535


def test_listing_of_an_lmdb(root, tmp_path):
    pack(str(root), str(tmp_path / 'all.lmdb'), processes=1)
    uri = f'lmdb://{tmp_path}/all.lmdb'
    for folder in ('', '/A', '/A/im', '/F'):
        for recursive in (False, True):
            there, packed = (
                sorted(fileio.list_dir_or_file(f'{place}{folder}', recursive=recursive)) for place in (root, uri)
            )
            assert there == packed
    assert fileio.isfile(f'{uri}/A/im/1.jpg')
    assert not fileio.isfile(f'{uri}/A/im')
    assert not fileio.isdir(f'{uri}/A/im/1.jpg')
    assert not fileio.exists(f'{uri}/A/i')
    with pytest.raises(FileNotFoundError, match='A/im/3.jpg: not in the database'):
        fileio.get(f'{uri}/A/im/3.jpg')
    with pytest.raises(FileNotFoundError, match='none.lmdb: no such LMDB file'):
        fileio.get(f'lmdb://{tmp_path}/none.lmdb/A/im/1.jpg')
    with pytest.raises(ValueError, match='expected lmdb://<file>.lmdb'):
        fileio.get('lmdb://somewhere/A')


def test_refusals_leave_nothing(root, tmp_path):
    with pytest.raises(FileExistsError, match='choose another place'):
        pack(str(root), str(root))
    with pytest.raises(ValueError, match='without a size'):
        pack(str(root), str(tmp_path / 'out'))
    with pytest.raises(FileNotFoundError, match='no set C'):
        pack(str(root), str(tmp_path / 'out.lmdb'), names=['C'])
    (root / 'A/im/1.jpg').write_bytes(b'')
    with pytest.raises(OSError, match='1.jpg: empty file'):
        pack(str(root), str(tmp_path / 'out'), size=SIZE, processes=1)
    assert not (tmp_path / 'out').exists()


def test_tool(root, tmp_path, monkeypatch, capsys):
    spec = importlib.util.spec_from_file_location('pack_dataset', TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    out = str(tmp_path / 'out.lmdb')
    module.main([str(root), out, '--sets', 'A', '--size', '40', '56', '--processes', '1'])
    assert capsys.readouterr().out.startswith(f'{out}: 3 pairs in ')
    with pytest.raises(SystemExit, match='exists'):
        module.main([str(root), out])
    with pytest.raises(SystemExit):
        module.main([str(root), out, '--jpeg', '101'])


def test_without_the_package(root, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'lmdb', None)
    with pytest.raises(ImportError, match='pip install lmdb'):
        fileio.get(f'lmdb://{tmp_path}/a.lmdb/x')
    with pytest.raises(ImportError, match='pip install lmdb'):
        pack(str(root), str(tmp_path / 'a.lmdb'), processes=1)
