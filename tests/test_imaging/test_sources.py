import inspect
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmbirefnet.datasets import DichotomousDataset
from mmbirefnet.imaging.formats import IMAGE_SUFFIXES
from mmbirefnet.imaging.sources import is_single, is_video, list_sources


@pytest.fixture
def folder(tmp_path):
    for name in (
        'b.JPG',
        'a.png',
        'sub/deep/a.png',
        'sub/c.webp',
        '.hidden.png',
        '.cache/x.png',
        'notes.txt',
        'x[1].png',
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def keys(inputs, **options):
    return [str(source.key) for source in list_sources(inputs, **options)]


def test_folder_with_sub_folders(folder):
    assert keys(folder) == keys(str(folder)) == ['a.png', 'b.JPG', 'x[1].png', 'sub/c.webp', 'sub/deep/a.png']
    assert keys(folder, out_dir=folder / 'sub') == ['a.png', 'b.JPG', 'x[1].png']
    assert [source.path for source in list_sources(folder)][0] == folder / 'a.png'


def test_globs(folder):
    assert keys(f'{folder}/*.png') == ['a.png', 'x[1].png']
    assert keys(f'{folder}/*/*.webp') == ['sub/c.webp']
    assert keys(f'{folder}/**/a.png') == ['a.png', 'sub/deep/a.png']
    assert keys(f'{folder}/**/*.png', out_dir=folder / 'sub') == ['a.png', 'x[1].png']
    assert keys(folder / 'x[1].png') == ['x[1].png']  # a name, not a pattern


def test_lists_of_paths_arrays_and_images(folder):
    array, image = np.zeros((2, 2, 3), np.uint8), Image.new('RGB', (1, 1))
    sources = list_sources([folder / 'a.png', array, image, str(folder / 'gone.tif'), folder / 'a.png'])
    assert [str(source.key) for source in sources] == ['a.png', '000001.png', '000002.png', 'gone.tif']
    assert [source.name for source in sources][1:3] == ['inputs[1]', 'inputs[2]']
    assert sources[1].read().size == (2, 2)


def test_several_folders_are_kept_apart(folder):
    assert keys([folder / 'sub', folder / 'sub/deep']) == ['sub/c.webp', 'sub/deep/a.png']  # the same file only once
    assert keys([folder / 'sub/deep', folder]) == [
        'deep/a.png',
        *(f'{folder.name}/{name}' for name in ('a.png', 'b.JPG', 'x[1].png', 'sub/c.webp')),
    ]


def test_nothing_found(folder):
    (folder / 'none').mkdir()
    with pytest.raises(FileNotFoundError, match='none: no images'):
        list_sources(folder / 'none')
    with pytest.raises(FileNotFoundError, match=r'\*\.gif: matches no images'):
        list_sources(f'{folder}/*.gif')
    with pytest.raises(ValueError, match='sub: is also the output folder'):
        list_sources(folder / 'sub', out_dir=folder / 'none/../sub')
    with pytest.raises(TypeError, match='int'):
        list_sources(3)


def test_every_format_that_is_read_is_found(tmp_path):
    """The suffixes of Windows, of old programs, and none at all."""
    names = ['a.jfif', 'b.jpe', 'c.tga', 'd.dib', 'e.ico', 'f.HEIC', 'g.psd']
    for name in names:
        (tmp_path / name).touch()
    Image.new('RGB', (2, 2)).save(tmp_path / 'without', 'PNG')
    (tmp_path / 'README').write_text('not an image')
    (tmp_path / 'SHORT').write_bytes(b'1')
    (tmp_path / 'film.mp4').touch()
    (tmp_path / '.hidden').touch()
    left_out = []
    assert [source.key.name for source in list_sources(tmp_path, left_out=left_out)] == sorted([*names, 'without'])
    assert left_out == [tmp_path / 'README', tmp_path / 'SHORT', tmp_path / 'film.mp4']
    (tmp_path / 'sub').mkdir()
    (tmp_path / 'sub/notes.txt').touch()
    with pytest.raises(FileNotFoundError, match=r'sub: no images in this folder; left out.*: 1 \(.*notes\.txt\)'):
        list_sources(tmp_path / 'sub')


def test_training_takes_what_inference_takes():
    parameters = inspect.signature(DichotomousDataset).parameters
    assert parameters['img_suffix'].default == parameters['seg_map_suffix'].default == IMAGE_SUFFIXES


def test_is_video_and_is_single(folder):
    assert is_video(Path('a.MP4'))
    assert not is_video('a.png')
    assert not is_video(np.zeros((2, 2)))
    assert all(map(is_single, [folder / 'a.png', 'gone.png', np.zeros((2, 2)), Image.new('L', (1, 1)), b'']))
    assert not any(map(is_single, [folder, f'{folder}/*.png', [folder / 'a.png'], ()]))
