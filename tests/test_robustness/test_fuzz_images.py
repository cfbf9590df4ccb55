"""Images of all kinds, intact and damaged, through ``load_image`` and the inferencer.

Each is read right, or ends in an error that names the file.
"""

import multiprocessing
import os
import resource
import socket
import tempfile
from pathlib import Path

import bad_files
import cv2
import numpy as np
import pytest
from bad_files import outcome, pixels
from PIL import EpsImagePlugin, Image
from processes import run_forked
from red import TakesRed, red_square

from mmbirefnet.apis import BiRefNetInferencer
from mmbirefnet.imaging.read import LoadedImage, load_image

pytestmark = pytest.mark.filterwarnings('ignore')  # what Pillow says of damaged files besides

WHOLE = bad_files.intact_images()
GREY = np.repeat(cv2.cvtColor(pixels(), cv2.COLOR_RGB2GRAY)[..., None], 3, 2)
CHANGED = 8


def same(one: LoadedImage, other: LoadedImage) -> bool:
    return np.array_equal(one.rgb, other.rgb) and np.array_equal(one.alpha, other.alpha)


def test_there_are_enough_cases():
    cuts = list(bad_files.cut_off(WHOLE))
    assert len(cuts) > 800
    assert len(cuts) + CHANGED * len(WHOLE) > 1000


@pytest.mark.parametrize('name', WHOLE)
def test_intact_images_are_read(name):
    """Gray, color, alpha, palettes, 16 bits, CMYK, the first of several frames."""
    image = load_image(WHOLE[name], name)
    kind = name.partition('.')[0]
    tolerance = {'palette': 60, 'palette-alpha': 60, 'cmyk': 4}.get(kind, 0)
    if name.endswith(('.jpg', '.avif')) or kind == 'lossy':
        tolerance = 12
    if name == 'animated.gif':
        tolerance = 60
    if kind in ('gray', 'gray-alpha', '16bit', 'float'):
        expected, tolerance = GREY, tolerance + 1
    elif kind == '16bit-rgb':  # OpenCV wrote BGR
        expected = pixels()[..., ::-1]
    elif kind == 'bits':
        assert set(np.unique(image.rgb)) == {0, 255}
        return
    elif kind == 'lab':
        assert image.rgb.std() > 20
        return
    else:
        expected = pixels()
    assert np.abs(image.rgb.astype(int) - expected).max() <= tolerance
    with_alpha = ('rgba.png', 'gray-alpha.png', 'palette-alpha.png', 'deflate.tif', 'alpha.webp')
    assert (image.alpha is not None) == (name in with_alpha)
    if name in ('rgba.png', 'deflate.tif', 'alpha.webp'):
        assert np.array_equal(image.alpha, pixels(4)[..., 3])


@pytest.mark.parametrize('name', WHOLE)
def test_truncated_images_are_complete_or_rejected(tmp_path, name):
    """Never an image of which a part is missing."""
    whole = load_image(WHOLE[name])
    for case in bad_files.cut_off({name: WHOLE[name]}):
        image = outcome(load_image, case.write(tmp_path))
        assert image is None or same(image, whole), case.name


@pytest.mark.parametrize('name', WHOLE)
def test_corrupted_images(tmp_path, name):
    for case in bad_files.changed({name: WHOLE[name]}, CHANGED):
        outcome(load_image, case.write(tmp_path))


@pytest.mark.soak
@pytest.mark.parametrize('name', WHOLE)
def test_images_corrupted_at_many_places(tmp_path, name):
    for case in bad_files.changed({name: WHOLE[name]}, 400, seed=1):
        path = case.write(tmp_path)
        outcome(load_image, path)
        path.unlink()


@pytest.mark.parametrize('name', ['gray.png', 'palette.png', '16bit.png'])
def test_every_bit_of_a_png_is_checked(tmp_path, name):
    whole = load_image(WHOLE[name])
    for position in range(len(WHOLE[name])):
        data = bytearray(WHOLE[name])
        data[position] ^= 1
        image = outcome(load_image, bad_files.Case(f'{position}-{name}', bytes(data)).write(tmp_path))
        assert image is None or same(image, whole), position


@pytest.mark.parametrize('suffix', ['.png', '.jpg', '.tif', '.webp', '.gif', '.bmp'])
def test_files_that_are_not_images_are_rejected(tmp_path, suffix):
    for case in bad_files.wrong_kinds((suffix,)):
        assert outcome(load_image, case.write(tmp_path)) is None, case.name


def test_suffix_of_another_format(tmp_path):
    """What is in a file counts, not what it is called."""
    for name in ('rgb.png', 'rgb.bmp', 'lzw.tif', 'alpha.webp'):
        for suffix in ('.jpg', '.gif', '.png', '.webp'):
            image = load_image(bad_files.Case(f'{name}{suffix}', WHOLE[name]).write(tmp_path))
            assert np.array_equal(image.rgb, pixels())


def test_postscript_is_not_run(tmp_path, monkeypatch):
    monkeypatch.setattr(EpsImagePlugin, 'Ghostscript', lambda *_, **__: pytest.fail('was run'))
    path = bad_files.Case('program.png', bad_files.eps()).write(tmp_path)
    with pytest.raises(OSError, match=r'program\.png: PostScript is a program'):
        load_image(path)


def test_bombs_are_refused_before_they_are_unpacked(tmp_path):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for case in bad_files.bombs():
        assert outcome(load_image, case.write(tmp_path)) is None, case.name
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 100 << 10  # KiB; each of them would be 10 GB


def test_headers_that_cannot_be(tmp_path):
    for case in bad_files.odd_headers():
        assert outcome(load_image, case.write(tmp_path)) is None, case.name


@pytest.mark.parametrize('size', [(1, 1), (1, 2), (3, 20_000), (20_000, 3), (1, 5000)], ids=str)
@pytest.mark.parametrize('format', ['PNG', 'JPEG', 'BMP', 'GIF', 'TIFF', 'PPM', 'JPEG2000'])
def test_extreme_sizes(tmp_path, size, format):
    """Maps of the image's size, which find what is red."""
    image = Image.new('RGB', size[::-1], (255, 0, 0))
    path = bad_files.Case('a.png', bad_files.encoded(image, format)).write(tmp_path)
    inferencer = BiRefNetInferencer(backend=TakesRed())
    for input_size in (None, 'image'):
        soft_map = inferencer(path, input_size=input_size)
        assert soft_map.shape == size
        assert (soft_map == 1).all()


@pytest.mark.parametrize('name', [*bad_files.NAMES, os.fsdecode(b'no-utf8-\xff.png')], ids=ascii)
def test_files_of_any_name_are_read(tmp_path, name):
    """Read, and told from errors, whatever the file is called."""
    rgb, inside = red_square()
    Image.fromarray(rgb).save(tmp_path / name, 'PNG')
    inferencer = BiRefNetInferencer(backend=TakesRed())
    for inputs in (tmp_path / name, str(tmp_path / name), [tmp_path / name], tmp_path):
        soft_map = inferencer(inputs)
        assert np.array_equal(soft_map[0] if isinstance(soft_map, list) else soft_map, inside)
    inferencer(tmp_path, tmp_path / 'out', save='mask')
    (mask,) = (tmp_path / 'out').iterdir()
    assert mask.name == f'{Path(name).stem}.png'
    (tmp_path / name).write_bytes(b'broken')
    assert outcome(inferencer, tmp_path / name) is None


def test_special_files(tmp_path):
    """Links in circles and into nothing, pipes, sockets, devices, folders: an error, and no waiting."""
    (tmp_path / 'loop.png').symlink_to(tmp_path / 'pool.png')
    (tmp_path / 'pool.png').symlink_to(tmp_path / 'loop.png')
    (tmp_path / 'dangling.png').symlink_to(tmp_path / 'gone.png')
    (tmp_path / 'folder.png').mkdir()
    (tmp_path / 'folder.png/self.png').symlink_to(tmp_path / 'folder.png')
    (tmp_path / 'device.png').symlink_to('/dev/zero')
    os.mkfifo(tmp_path / 'pipe.png')
    with tempfile.TemporaryDirectory(dir='/tmp') as short, socket.socket(socket.AF_UNIX) as server:
        server.bind(f'{short}/s')
        (tmp_path / 'socket.png').symlink_to(f'{short}/s')
        paths = sorted(tmp_path.glob('*.png'))
        assert len(paths) == 7
        for path in paths:
            assert outcome(load_image, path) is None, path
    for name in ('null\0byte.png', f'{"x" * 300}.png'):
        with pytest.raises((OSError, ValueError)):
            load_image(tmp_path / name)


def test_a_folder_of_special_files(tmp_path):
    """All of them are told; the good one is cut."""
    rgb, inside = red_square()
    Image.fromarray(rgb).save(tmp_path / 'good.png')
    (tmp_path / 'loop.png').symlink_to(tmp_path / 'loop.png')
    (tmp_path / 'circle').symlink_to(tmp_path)
    os.mkfifo(tmp_path / 'pipe.png')
    failed = {}
    inferencer = BiRefNetInferencer(backend=TakesRed())
    found = list(inferencer.predict(tmp_path, on_error=lambda source, error: failed.update({source.path: error})))
    assert [each.image.path.name for each in found] == ['good.png']
    assert np.array_equal(found[0].soft_map, inside)
    assert {path.name for path in failed} == {'loop.png', 'pipe.png'}
    assert all(str(path) in str(error) for path, error in failed.items())


@pytest.mark.skipif(os.name != 'posix', reason='file modes of POSIX')
def test_without_permission():
    """In a process without the rights of root, which may read everything."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        path = Path(folder, 'secret.png')
        path.write_bytes(WHOLE['rgb.png'])
        path.chmod(0)
        ours, theirs = multiprocessing.Pipe()

        def read():
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
            try:
                load_image(path)
            except OSError as error:
                theirs.send(f'{type(error).__name__}: {error}')

        assert run_forked(read) == 0
        assert ours.poll()
        said = ours.recv()
    assert str(path) in said
    assert 'Permission denied' in said
    assert said.startswith(('OSError', 'PermissionError'))
