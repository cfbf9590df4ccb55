"""Packed sets give the training pipeline the very same inputs."""

from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.dataset import pseudo_collate
from tool_module import load_tool
from torch.utils.data import DataLoader

from mmbirefnet.datasets import DichotomousDataset
from mmbirefnet.datasets.preparation.layout import pack

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


def inputs(data_root, sets='A'):
    data = DichotomousDataset(str(data_root), sets=sets, pipeline=PIPELINE)
    batches = DataLoader(data, collate_fn=pseudo_collate)
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


def test_resized_gives_the_same_inputs(root, tmp_path):
    """Except for 16-bit masks, which are rounded to 1/65535."""
    out = tmp_path / 'small'
    assert pack(str(root), str(out), SIZE, names=['A'], processes=1) == 3
    assert_same(inputs(root), inputs(out), fine=0.5001 / 65535)
    assert not (out / 'F').exists()


def test_jpeg(root, tmp_path):
    pack(str(root), str(tmp_path / 'small'), SIZE, names=['A'], jpeg_quality=95, processes=1)
    plain, packed = inputs(root), inputs(tmp_path / 'small')
    for stem, (image, mask, _) in plain.items():
        assert 0 < (packed[stem][0].float() - image.float()).abs().mean() < 40  # noise, JPEG's worst
        assert (packed[stem][1] - mask).abs().max() <= 0.5001 / 65535


def test_refusals_leave_nothing(root, tmp_path):
    with pytest.raises(FileExistsError, match='choose another folder'):
        pack(str(root), str(root), SIZE)
    with pytest.raises(FileNotFoundError, match='no set C'):
        pack(str(root), str(tmp_path / 'out'), SIZE, names=['C'])
    (root / 'A/im/1.jpg').write_bytes(b'')
    with pytest.raises(OSError, match='1.jpg: empty file'):
        pack(str(root), str(tmp_path / 'out'), SIZE, processes=1)
    assert not (tmp_path / 'out').exists()


def test_tool(root, tmp_path, capsys):
    module = load_tool(TOOL)
    out = str(tmp_path / 'out')
    module.main([str(root), out, '--sets', 'A', '--size', '40', '56', '--processes', '1'])
    assert capsys.readouterr().out.startswith(f'{out}: 3 pairs in ')
    with pytest.raises(SystemExit, match='exists'):
        module.main([str(root), out, '--size', '40', '56'])
    with pytest.raises(SystemExit):
        module.main([str(root), out, '--size', '40', '56', '--jpeg', '101'])
