"""Images and masks of all kinds, whole and broken, as data sets load them.

Each is loaded right, or ends in an error that names the file.
"""

import io
import os
import resource
from pathlib import Path

import bad_files
import cv2
import numpy as np
import pytest
from bad_files import HEIGHT, WIDTH, Case, encoded, outcome, pixels
from PIL import Image

from mmbirefnet.datasets import DichotomousDataset
from mmbirefnet.datasets.transforms import LoadImage, LoadMask

pytestmark = pytest.mark.filterwarnings('ignore')  # what Pillow says of damaged files besides

WHOLE = bad_files.intact_images()
GREY = np.asarray(Image.fromarray(pixels()).convert('L'))
MASKS = {
    name: data
    for name, data in WHOLE.items()
    if name.partition('.')[0] in ('gray', '16bit') and not name.endswith('.jpg')
} | {
    'binary.png': encoded(Image.fromarray(GREY > 99), 'PNG'),
    'gray-as-rgb.png': encoded(Image.fromarray(GREY).convert('RGB'), 'PNG'),
    'palette-gray.png': encoded(Image.fromarray(GREY).convert('P'), 'PNG'),
    'opaque.png': encoded(Image.fromarray(GREY).convert('LA'), 'PNG'),
    'gray.webp': encoded(Image.fromarray(GREY), 'WEBP', lossless=True),
    'gray.tif': encoded(Image.fromarray(GREY), 'TIFF', compression='tiff_lzw'),
    'gray.jpg': WHOLE['gray.jpg'],
}
CHANGED = 8


def load_image(path) -> np.ndarray:
    return LoadImage()({'img_path': str(path)})['img']


def load_mask(path, size=(HEIGHT, WIDTH)) -> np.ndarray:
    results = {'img_path': 'image.jpg', 'seg_map_path': str(path), 'ori_shape': size}
    return LoadMask()(results)['gt_seg_map']


def whole_files(load, tmp_path) -> dict:
    files = WHOLE if load is load_image else MASKS
    return {name: (data, outcome(load, Case(name, data).write(tmp_path))) for name, data in files.items()}


def test_whole_images(tmp_path):
    """What OpenCV reads; what is transparent lies on gray, and other color spaces go through Pillow."""
    for name, (data, image) in whole_files(load_image, tmp_path).items():
        with Image.open(io.BytesIO(data)) as stored:
            if stored.has_transparency_data:
                rgba = np.asarray(stored.convert('RGBA'), np.float64)
                alpha = rgba[..., 3:] / 255
                reference = np.rint(rgba[..., 2::-1] * alpha + 128 * (1 - alpha))
            elif stored.mode == 'F':  # which OpenCV refuses
                reference = np.rint(np.asarray(stored)[..., None] * 255)
            else:
                reference = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR).astype(float)
        if name != 'lab.tif':  # OpenCV converts Lab by a formula of its own
            assert np.abs(image - reference).max() <= (stored.mode == 'CMYK'), name
        if name.partition('.')[0] in ('rgb', 'lzw', 'pages', 'animated'):
            tolerance = 12 if name.endswith(('jpg', 'avif')) else 60 if name.endswith('gif') else 0
            assert np.abs(image[..., ::-1].astype(int) - pixels()).max() <= tolerance, name


def test_whole_masks(tmp_path):
    for name, (_, mask) in whole_files(load_mask, tmp_path).items():
        expected = (GREY > 99) * 255 if name == 'binary.png' else GREY
        mask = mask * 255 if mask.dtype == np.float32 else mask.astype(int)
        assert np.abs(mask - expected).max() <= (4 if name.endswith('.jpg') else 1), name


def test_images_that_are_no_masks(tmp_path):
    for name, data in WHOLE.items():
        if name not in MASKS and name not in ('bits.png', 'gray.jpg'):
            assert outcome(load_mask, Case(name, data).write(tmp_path)) is None, name


@pytest.mark.parametrize('load', [load_image, load_mask])
def test_truncated_files_are_complete_or_rejected(tmp_path, load):
    """Never an image or a mask of which a part is missing."""
    count = 0
    for name, (data, whole) in whole_files(load, tmp_path).items():
        for case in bad_files.cut_off({name: data}):
            found = outcome(load, case.write(tmp_path))
            assert found is None or np.array_equal(found, whole), case.name
            count += 1
    assert count > 250


@pytest.mark.parametrize('load', [load_image, load_mask])
def test_corrupted_files(tmp_path, load):
    files = {name: data for name, (data, _) in whole_files(load, tmp_path).items()}
    cases = list(bad_files.changed(files, CHANGED))
    assert len(cases) > 80
    for case in cases:
        outcome(load, case.write(tmp_path))


@pytest.mark.soak
@pytest.mark.parametrize('load', [load_image, load_mask])
def test_files_corrupted_at_many_places(tmp_path, load):
    files = {name: data for name, (data, _) in whole_files(load, tmp_path).items()}
    for case in bad_files.changed(files, 200, seed=1):
        path = case.write(tmp_path)
        outcome(load, path)
        path.unlink()


@pytest.mark.parametrize('load', [load_image, load_mask])
def test_no_image(tmp_path, load):
    for case in bad_files.wrong_kinds(('.png', '.jpg', '.tif', '.bmp')):
        assert outcome(load, case.write(tmp_path)) is None, case.name


@pytest.mark.parametrize('load', [load_image, load_mask])
def test_declared_huge(tmp_path, load):
    """Also a part of a PNG that is said to have gigabytes."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for case in bad_files.bombs():
        assert outcome(load, case.write(tmp_path)) is None, case.name
    data = bytearray(WHOLE['gray.png'])
    position = data.index(b'IDAT') - 4
    data[position] |= 0x70
    assert outcome(load, Case('part.png', bytes(data)).write(tmp_path)) is None
    data = bytearray(WHOLE['gray.png'])
    data[16:24] = bytes([0, 0, 60, 0, 0, 0, 60, 0])  # 15360 x 15360, of another checksum
    assert outcome(load, Case('header.png', bytes(data)).write(tmp_path)) is None
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10  # KiB


@pytest.mark.parametrize('load', [load_image, load_mask])
def test_headers_that_cannot_be(tmp_path, load):
    for case in bad_files.odd_headers():
        assert outcome(load, case.write(tmp_path)) is None, case.name


@pytest.mark.parametrize('size', [(1, 1), (3, 20_000), (20_000, 3)], ids=str)
def test_extreme_sizes(tmp_path, size):
    for format in ('PNG', 'JPEG', 'BMP', 'TIFF'):
        path = Case('a.png', encoded(Image.new('RGB', size[::-1], (255, 0, 0)), format)).write(tmp_path)
        assert np.abs(load_image(path).astype(int) - (0, 0, 255)).max() <= 2
        path = Case('b.png', encoded(Image.new('L', size[::-1], 255), format)).write(tmp_path)
        assert (load_mask(path, size) == 255).all()
        with pytest.raises(ValueError, match=r'image and mask differ in size.*b\.png'):
            load_mask(path, (size[0] + 1, size[1]))


@pytest.fixture
def folder(tmp_path):
    for part in ('im', 'gt'):
        (tmp_path / part).mkdir()
    return tmp_path


def add(folder: Path, name: str, image: bytes = WHOLE['rgb.png'], mask: bytes = WHOLE['gray.png']) -> None:
    (folder / 'im' / name).write_bytes(image)
    (folder / 'gt' / name).write_bytes(mask)


PIPELINE = [dict(type='mmbirefnet.LoadImage'), dict(type='mmbirefnet.LoadMask')]


def dataset(folder: Path) -> DichotomousDataset:
    return DichotomousDataset(str(folder), pipeline=PIPELINE)


def test_files_of_any_name_are_loaded(folder):
    """Every item is found and loaded whatever its name."""
    names = [*bad_files.NAMES, os.fsdecode(b'no-utf8-\xff.png')]
    for name in names:
        add(folder, name)
    found = dataset(folder)
    assert {Path(found.get_data_info(i)['img_path']).name for i in range(len(found))} == set(names)
    for index in range(len(found)):
        results = found[index]
        assert np.array_equal(results['img'][..., ::-1], pixels())
        assert np.array_equal(results['gt_seg_map'], GREY)


@pytest.mark.parametrize('part', ['im', 'gt'])
@pytest.mark.parametrize('kind', ['loop', 'dangling', 'folder', 'pipe', 'device'])
def test_special_files(folder, part, kind):
    """A file that cannot be one is told: missing beside its partner, or when it is loaded."""
    add(folder, 'a.png')
    add(folder, 'b.png')
    path = folder / part / 'b.png'
    path.unlink()
    if kind == 'folder':
        path.mkdir()
    elif kind == 'pipe':
        os.mkfifo(path)
    else:
        path.symlink_to({'loop': path, 'dangling': folder / 'gone', 'device': '/dev/zero'}[kind])
    with pytest.raises((OSError, ValueError), match=r'b\.png'):
        list(dataset(folder))


def test_folders_that_link_to_themselves(folder):
    """Not followed for ever: two of them would be 2**40 folders."""
    (folder / 'im/sub').mkdir()
    (folder / 'im/one').symlink_to(folder / 'im/sub')
    (folder / 'im/sub/two').symlink_to(folder / 'im')
    with pytest.raises(OSError, match=r'im/(one|sub)/two: links to a folder that contains it'):
        dataset(folder)
    (folder / 'im/sub/two').unlink()
    add(folder, 'a.png')
    assert len(dataset(folder)) == 1


def test_a_broken_file_is_named_by_the_data_set(folder):
    for name in ('a.png', 'b.png'):
        add(folder, name)
    for part, data in (('im', WHOLE['rgb.png'][:-20]), ('gt', b'')):
        path = folder / part / 'b.png'
        whole, _ = path.read_bytes(), path.write_bytes(data)
        found = dataset(folder)
        assert np.array_equal(found[0]['gt_seg_map'], GREY)
        with pytest.raises(OSError, match=rf'{part}/b\.png: '):
            found[1]
        path.write_bytes(whole)
