"""``mmbirefnet cut`` on folders of good and broken files, and with options that cannot be."""

import os
import re

import bad_files
import numpy as np
import pytest
from PIL import Image
from red import TakesRed, red_square

from mmbirefnet.apis import BiRefNetInferencer, load_image
from mmbirefnet.cli import cut, main

pytestmark = pytest.mark.filterwarnings('ignore')  # what Pillow says of damaged files besides

WHOLE = bad_files.intact_images()


@pytest.fixture(autouse=True)
def backend(monkeypatch):
    monkeypatch.setattr(cut, 'inferencer_of', lambda args: BiRefNetInferencer(backend=TakesRed()))


def run(*words) -> int:
    return main.main(['cut', *map(str, words), '--quiet'])


def readable(path) -> bool:
    return bad_files.outcome(load_image, path) is not None


def test_good_and_bad_files_of_all_kinds(tmp_path, capfd):
    """Every good one is written, every bad one told with its name; the status says that there were some."""
    folder = tmp_path / 'in'
    folder.mkdir()
    rgb, inside = red_square()
    for name in (*bad_files.NAMES, os.fsdecode(b'no-utf8-\xff.png')):
        Image.fromarray(rgb).save(folder / name, 'PNG')
    cases = [
        *bad_files.cut_off({name: WHOLE[name] for name in ('rgb.png', 'rgb.jpg', 'alpha.webp', 'lzw.tif')}),
        *bad_files.changed(WHOLE, 1),
        *bad_files.wrong_kinds(('.png', '.jpg')),
        *bad_files.bombs(),
        *bad_files.odd_headers(),
    ]
    for case in cases:
        (folder / case.name).write_bytes(case.data)
    (folder / 'loop.png').symlink_to(folder / 'loop.png')
    os.mkfifo(folder / 'pipe.png')
    paths = [path for path in folder.iterdir() if path.suffix.lower() != '.svg']
    assert len(paths) > 180
    bad = [path for path in paths if not readable(path)]
    assert len(bad) > 100
    assert run(folder, '-o', tmp_path / 'out', '--save', 'mask', '--batch-size', '4') == 1
    said = capfd.readouterr()
    assert f'{len(paths) - len(bad)} written, 0 skipped, {len(bad)} failed' in said.out
    for path in bad:
        assert f'failed: {path}: ' in said.err
    assert said.err.count('failed: ') == len(bad)
    assert len(list((tmp_path / 'out').iterdir())) == len(paths) - len(bad)
    for name in bad_files.NAMES:
        stem = re.escape(name.rpartition('.')[0])
        (mask,) = (p for p in (tmp_path / 'out').iterdir() if re.fullmatch(f'{stem}(_png|_PNG)?[.]png', p.name))
        assert np.array_equal(np.asarray(Image.open(mask)), inside * 255)


def test_good_files_of_all_kinds(tmp_path):
    for name, data in WHOLE.items():
        (tmp_path / name).write_bytes(data)
    assert run(tmp_path, '-o', tmp_path / 'out', '--save', 'mask', 'cutout', '--format', 'tif') == 0
    assert len(list((tmp_path / 'out/cutout').iterdir())) == len(WHOLE)


WRONG = [
    ['--size', '33'],
    ['--size', '0'],
    ['--size', '-32'],
    ['--size', '32x'],
    ['--size', 'big'],
    ['--batch-size', '0'],
    ['--scales', '0'],
    ['--scales', 'nan'],
    ['--scales', '99'],
    ['--threshold', '1'],
    ['--threshold', '-0.1'],
    ['--threshold', 'nan'],
    ['--min-area', '-1'],
    ['--min-area', 'nan'],
    ['--margin', '-1'],
    ['--margin', 'nan'],
    ['--box', '5', '5', '5', '9'],
    ['--box', '0', '0', 'nan', '9'],
    ['--workers', '0'],
    ['--format', 'bmp'],
    ['--save', 'everything'],
    ['--background', 'no color'],
    ['--background', '#12'],
    ['--background', '/nowhere/at all.png'],
]


@pytest.mark.parametrize('words', WRONG, ids=' '.join)
def test_wrong_options_are_named(tmp_path, capsys, words):
    """Before anything is computed; argparse leaves with the same status."""
    Image.fromarray(red_square()[0]).save(tmp_path / 'a.png')
    try:
        status = run(tmp_path / 'a.png', '-o', tmp_path / 'out', *words)
    except SystemExit as left:
        status = left.code
    said = capsys.readouterr().err
    assert status == 2
    assert re.search(words[0].strip('-').replace('-', '[-_]'), said), said
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize('out', ['loop', 'loop/deeper', 'file/deeper', 'null\0byte', 'x' * 300])
def test_places_that_cannot_be_written(tmp_path, capsys, out):
    Image.fromarray(red_square()[0]).save(tmp_path / 'a.png')
    (tmp_path / 'loop').symlink_to(tmp_path / 'loop')
    (tmp_path / 'file').touch()
    assert run(tmp_path / 'a.png', '-o', tmp_path / out) in (1, 2)
    said = capsys.readouterr().err
    assert said.startswith(('error: ', 'failed: '))
    assert 'Traceback' not in said
