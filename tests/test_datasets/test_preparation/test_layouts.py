"""Downloads of every known form are laid out so that the data sets read them."""

from pathlib import Path

import pytest
from tool_module import load_tool

from mmbirefnet.datasets import CODDataset, DichotomousDataset
from mmbirefnet.datasets.preparation.find_sets import FAMILIES
from mmbirefnet.datasets.preparation.layout import LAYOUTS, find_layouts, make_links, plan_links

TOOL = Path(__file__).parents[3] / 'tools/dataset_converters/link_dataset.py'


def run(*arguments):
    module = load_tool(TOOL)
    with pytest.raises(SystemExit) as exit_info:
        module.main([str(word) for word in arguments])
    return exit_info.value.code


def touch(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(name.encode())


@pytest.mark.parametrize('index', range(len(LAYOUTS)), ids=lambda index: LAYOUTS[index].set_path)
@pytest.mark.soak(keep=10)
def test_known_layouts_are_found(tmp_path, index):
    layout = LAYOUTS[index]
    stem = layout.stems.replace('*', '7')
    touch(tmp_path / 'download/inner' / layout.images, f'{stem}.jpg')
    touch(tmp_path / 'download/inner' / layout.masks, f'{stem}.png')
    for found, folder in find_layouts(tmp_path / 'download'):
        if found == layout:
            make_links(plan_links(found, folder), tmp_path / 'data')
    family, name = layout.set_path.split('/')
    assert name in FAMILIES[family]
    (item,) = DichotomousDataset(str(tmp_path / 'data' / family), sets=name).load_data_list()
    assert Path(item['img_path']).read_bytes() == f'{stem}.jpg'.encode()
    assert Path(item['seg_map_path']).read_bytes() == f'{stem}.png'.encode()


def test_shared_folder_becomes_two_sets(tmp_path, capsys):
    """TrainDataset of the camouflage papers: COD10K and CAMO, apart by their stems."""
    source = tmp_path / 'download/TrainDataset'
    names = ('COD10K-CAM-1', 'COD10K-CAM-2', 'COD10K-NonCAM-1', 'camourflage_1')
    touch(source / 'Imgs', *(f'{name}.jpg' for name in names))
    touch(source / 'GT', *(f'{name}.png' for name in names))
    assert run(tmp_path / 'download', tmp_path / 'data') == 0
    data = CODDataset(str(tmp_path / 'data'), sets=['TR-COD10K', 'TR-CAMO'])
    stems = [Path(item['img_path']).stem for item in data.load_data_list()]
    assert stems == ['COD10K-CAM-1', 'COD10K-CAM-2', 'camourflage_1']
    assert '2 pairs of 3040 published linked' in capsys.readouterr().out
    assert run(tmp_path / 'download', tmp_path / 'data') == 0  # the links may be there


def test_map_with_patterns(tmp_path, capsys):
    source = tmp_path / 'download'
    touch(source / 'photos', '1.JPG', '2.JPG', '3.JPG', 'notes.txt')
    touch(source / 'alpha/png', 'm_1_matte.png', 'm_2_matte.png', 'm_2_trimap.png', 'm_9_matte.png')
    arguments = ['--map', 'im=photos,gt=alpha/png/m_*_matte.png', '--set', 'Own']
    assert run(source, tmp_path / 'data', *arguments) == 1
    output = capsys.readouterr().out
    assert f'{source}/photos/3.JPG: left out, because it has no mask' in output
    assert '2 pairs linked; left out: 1 images without mask, 1 masks without image' in output
    items = DichotomousDataset(str(tmp_path / 'data'), sets='Own').load_data_list()
    assert [Path(item['seg_map_path']).resolve().name for item in items] == ['m_1_matte.png', 'm_2_matte.png']
    assert [Path(item['seg_map_path']).name for item in items] == ['1.png', '2.png']


def test_nothing_is_overwritten(tmp_path):
    source = tmp_path / 'download'
    touch(source / 'DIS-VD/im', '1.jpg')
    touch(source / 'DIS-VD/gt', '1.png')
    touch(tmp_path / 'data/DIS5K/DIS-VD/im', '1.jpg')
    assert 'im/1.jpg: already exists' in run(source, tmp_path / 'data')
    assert not (tmp_path / 'data/DIS5K/DIS-VD/gt').exists()


def test_ambiguous_sources_and_unmatched_stems_are_errors(tmp_path, capsys):
    touch(tmp_path / 'a/im', '1.jpg')
    touch(tmp_path / 'a/gt', '2.png')
    assert 'none of the known archives' in run(tmp_path / 'a', tmp_path / 'data')
    assert 'share a stem' in run(tmp_path / 'a', tmp_path / 'data', '--map', 'im=im,gt=gt', '--set', 'A')
    for place in ('b/1/NC4K', 'b/2/NC4K'):
        touch(tmp_path / place / 'Imgs', '1.jpg')
        touch(tmp_path / place / 'GT', '1.png')
    assert 'COD/NC4K was found several times' in run(tmp_path / 'b', tmp_path / 'data')
    for arguments, told in (
        (['--map', 'im=im,gt=gt'], '--map and --set must be used together'),
        (['--map', 'im=im', '--set', 'A'], 'expected im=...,gt=...'),
        (['--map', 'im=im,gt=masks', '--set', 'A'], 'masks is not a folder'),
    ):
        assert run(tmp_path / 'a', tmp_path / 'data', *arguments) == 2
        assert told in capsys.readouterr().err
