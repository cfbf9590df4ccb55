"""``mmbirefnet cut`` with pipes, URLs, animations, pages, masks and reports; every test looks at pixels."""

import functools
import http.server
import io
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pico
import pytest
from fake_backend import RedBackend
from mmengine.config import Config
from PIL import Image, TiffImagePlugin

from mmbirefnet import remove_background
from mmbirefnet.apis import BiRefNetInferencer, MaskInferencer
from mmbirefnet.cli import cut, main
from mmbirefnet.fileio.checkpoints import write_checkpoint
from mmbirefnet.imaging.frames import load_frames
from mmbirefnet.imaging.read import LoadedSequence
from mmbirefnet.registry import MODELS

DURATIONS = [50, 70, 200]


@pytest.fixture
def backend(monkeypatch, tmp_path):
    """What every run predicts with: alpha is the red channel."""
    backend = RedBackend()
    monkeypatch.setattr(cut, 'inferencer_of', lambda args: BiRefNetInferencer(backend=backend))
    monkeypatch.chdir(tmp_path)
    return backend


def run(*words):
    return main.main(['cut', *map(str, words)])


def square(index, size=(32, 64)):
    """An opaque red square on blue, farther right in each frame."""
    pixels = np.zeros((*size, 3), np.uint8)
    pixels[..., 2] = 200
    pixels[8:16, 8 + 12 * index : 20 + 12 * index] = (255, 40 * index, 0)
    return pixels


def save_animation(path, **options):
    first, *others = (Image.fromarray(square(index)) for index in range(3))
    first.save(path, save_all=True, append_images=others, duration=DURATIONS, **options)


def rgba(frame):
    alpha = np.full(frame.size, 255, np.uint8) if frame.alpha is None else frame.alpha
    return np.dstack([frame.rgb, alpha])


# Streams


def encoded(pixels, format='PNG'):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format)
    return file.getvalue()


def piped(monkeypatch, content):
    """Standard input and output that hold bytes."""
    output = io.BytesIO()
    monkeypatch.setattr(sys, 'stdin', SimpleNamespace(buffer=io.BytesIO(content)))
    monkeypatch.setattr(sys, 'stdout', SimpleNamespace(buffer=output, encoding='utf-8', write=None, flush=None))
    return output


def test_standard_input_and_output(backend, monkeypatch, tmp_path, capsys):
    output = piped(monkeypatch, encoded(square(0)))
    assert run('-', '-o', '-') == 0
    image = Image.open(io.BytesIO(output.getvalue()))
    assert (image.format, image.mode) == ('PNG', 'RGBA')
    assert np.array_equal(np.asarray(image)[..., 3], square(0)[..., 0])
    assert '1 written' in capsys.readouterr().err
    output = piped(monkeypatch, encoded(square(0)))
    assert run('-', '-o', '-', '--format', 'webp', '--save', 'mask', '--crop') == 0
    image = Image.open(io.BytesIO(output.getvalue()))
    assert (image.format, image.size) == ('WEBP', (12, 8))
    assert np.asarray(image).min() == 255
    output = piped(monkeypatch, b'broken')
    assert run('-', '-o', '-') == 1
    assert output.getvalue() == b''
    assert 'failed: standard input: not an image' in capsys.readouterr().err


def test_standard_input_to_a_folder(backend, monkeypatch):
    monkeypatch.setattr(sys, 'stdin', SimpleNamespace(buffer=io.BytesIO(encoded(square(1)))))
    assert run('-', '-o', 'out') == 0
    assert np.array_equal(np.asarray(Image.open('out/stdin.png'))[..., 3], square(1)[..., 0])


@pytest.mark.soak
def test_a_pipe_holds_the_image_alone(tmp_path):
    """With a real model, whose logger writes to the standard output by default."""
    (tmp_path / 'pico.py').write_text(pico.CONFIG)
    model = MODELS.build(Config.fromfile(tmp_path / 'pico.py').model)
    write_checkpoint(tmp_path / 'pico.pth', model.state_dict(), {})
    words = [sys.executable, '-m', 'mmbirefnet.cli.main', 'cut', '-', '-o', '-', '--save', 'mask', '--device', 'cpu']
    words += ['--config', tmp_path / 'pico.py', '--checkpoint', tmp_path / 'pico.pth', '--crop-order', 'rows']
    done = subprocess.run(list(map(str, words)), input=encoded(square(0)), capture_output=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(b'\x89PNG')
    assert done.stdout.endswith(b'IEND\xaeB`\x82')
    assert Image.open(io.BytesIO(done.stdout)).size == (64, 32)
    assert b'1 written' in done.stderr


# URLs


@pytest.fixture
def site(tmp_path, monkeypatch):
    folder = tmp_path / 'site'
    folder.mkdir()
    Image.fromarray(square(0)).save(folder / 'a b.png')
    monkeypatch.setattr(http.server.SimpleHTTPRequestHandler, 'log_message', lambda *_: None)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f'http://127.0.0.1:{server.server_port}'
        server.shutdown()


@pytest.mark.parametrize('sandbox', [[], ['--no-sandbox']])
def test_urls(backend, site, capsys, sandbox):
    url = f'{site}/a%20b.png?size=1'
    assert run(url, '-o', 'out', *sandbox) == 1
    assert 'which is not a public address' in capsys.readouterr().err
    assert run(url, f'{site}/none.png', '-o', 'out', '--allow-private-urls', *sandbox) == 1
    assert f'failed: {site}/none.png: cannot be read: HTTP 404' in capsys.readouterr().err
    assert np.array_equal(np.asarray(Image.open('out/a b.png'))[..., 3], square(0)[..., 0])
    assert run(url, '-o', 'x.png', '--allow-private-urls', '--max-download', '0.0001', *sandbox) == 1
    assert 'larger than the limit of 104 bytes' in capsys.readouterr().err
    inferencer = BiRefNetInferencer(backend=backend)
    soft_map = inferencer(url, allow_private_urls=True)
    assert np.array_equal(soft_map > 0.5, square(0)[..., 0] > 0)
    with pytest.raises(PermissionError, match='not a public address'):
        inferencer(url)


# Animations and pages


@pytest.mark.parametrize('sandbox', [[], ['--no-sandbox']])
@pytest.mark.parametrize('suffix', ['gif', 'webp', 'png', 'avif'])
def test_animations(backend, suffix, sandbox):
    lossless = dict(lossless=True) if suffix == 'webp' else {}
    save_animation(f'a.{suffix}', loop=2, **lossless)
    assert run(f'a.{suffix}', '-o', 'out', '--batch-size', '2', *sandbox) == 0
    found = load_frames(f'out/a.{suffix}')
    assert found.durations == DURATIONS
    expected_plays = dict(gif=3, webp=2, png=2, avif=0)  # a GIF counts what comes after the first time
    assert found.plays == expected_plays[suffix]
    tolerance = 3 if suffix == 'avif' else 0  # of the mean: AVIF is lossy, on the way in and out
    for index, frame in enumerate(found.frames):
        expected = np.dstack([square(index), square(index)[..., 0]])
        expected[expected[..., 3] == 0] = 0
        solid = expected[..., 3] == 255
        got = rgba(frame).astype(int)
        reduce = np.mean if suffix == 'avif' else np.max
        assert reduce(np.abs(got[..., 3] - expected[..., 3])) <= tolerance
        if suffix != 'avif':
            assert np.array_equal(got[solid], expected[solid])


@pytest.mark.parametrize('suffix', ['gif', 'webp', 'apng'])
def test_the_format_of_an_animation(backend, suffix):
    """Soft alpha survives but in a GIF; frames are cropped to one box; the first frame alone is a still image."""
    frames = [square(index) // 4 * 3 for index in range(3)]
    frames[0][9, 9] = 100, 0, 0
    first, *others = map(Image.fromarray, frames)
    first.save('a.gif', save_all=True, append_images=others, duration=DURATIONS)
    assert run('a.gif', '-o', 'out', '--format', suffix, '--crop') == 0
    found = load_frames(f'out/a.{suffix}')
    assert (found.durations, found.plays) == (DURATIONS, 1)
    box = json.loads(Path(f'out/a.{suffix}.json').read_text())
    assert [box[side] for side in ('left', 'top', 'right', 'bottom')] == [8, 8, 44, 16]
    for frame, pixels in zip(found.frames, frames):
        alpha = pixels[8:16, 8:44, 0]
        expected = np.where(alpha >= 128, 255, 0) if suffix == 'gif' else alpha
        assert np.array_equal(frame.alpha if frame.alpha is not None else np.full(frame.size, 255), expected)
    assert run('a.gif', '-o', 'first', '--frames', 'first') == 0
    assert np.asarray(Image.open('first/a.png')).shape == (32, 64, 4)
    with pytest.raises(ValueError, match='a.gif: 3 frames, which jpg cannot hold. Fix: --format gif, webp, apng'):
        BiRefNetInferencer(backend=backend)('a.gif', 'out', save='mask', format='jpg', frames='all')


def test_a_format_that_holds_no_frames_fails_that_file_alone(backend, capsys):
    Path('in').mkdir()
    save_animation('in/a.gif')
    Image.fromarray(square(0)).save('in/b.png')
    assert run('in', '-o', 'out', '--format', 'jpg', '--save', 'mask') == 1
    printed = capsys.readouterr()
    assert printed.out.startswith('1 written, 0 skipped, 1 failed')
    assert (
        'failed: in/a.gif: 3 frames, which jpg cannot hold. Fix: --format gif, webp, apng or avif, or --frames first'
        in printed.err
    )
    assert [path.name for path in Path('out').iterdir()] == ['b.jpg']
    assert run('in', '-o', 'first', '--format', 'jpg', '--save', 'mask', '--frames', 'first') == 0
    found = np.asarray(Image.open('first/a.jpg')).astype(int)
    assert np.abs(found - square(0)[..., 0]).max() < 12


def test_partial_frames_are_composed(backend):
    """What a frame leaves of the one before is composed: here the frames are small patches on a canvas."""
    canvas = Image.new('RGB', (64, 32), (0, 0, 255))
    patch = Image.new('RGBA', (64, 32))
    patch.paste((255, 0, 0, 255), (10, 10, 20, 20))
    canvas.save('a.png', save_all=True, append_images=[patch], duration=[40, 60], blend=1, disposal=0)
    assert run('a.png', '-o', 'out') == 0
    empty, square_ = load_frames('out/a.png').frames
    assert not rgba(empty)[..., 3].any()
    expected = np.zeros((32, 64), np.uint8)
    expected[10:20, 10:20] = 255
    assert np.array_equal(rgba(square_)[..., 3], expected)


@pytest.mark.parametrize('sandbox', [[], ['--no-sandbox']])
def test_pages(backend, sandbox):
    """Pages of different sizes; a thumbnail between them is left out."""
    pages = [Image.fromarray(square(0)), Image.fromarray(square(1, (48, 96)))]
    thumbnail = pages[0].resize((16, 8))
    with TiffImagePlugin.AppendingTiffWriter('a.tif', True) as writer:
        for page, kind in ((pages[0], 0), (thumbnail, 1), (pages[1], 0)):
            page.save(writer, 'TIFF', tiffinfo={254: kind})
            writer.newFrame()
    assert run('a.tif', '-o', 'out', '--save', 'mask', *sandbox) == 0
    found = load_frames('out/a.tif')
    assert found.durations is None
    assert [frame.size for frame in found.frames] == [(32, 64), (48, 96)]
    for index, frame in enumerate(found.frames):
        inside = np.asarray(pages[index])[..., 0] > 0
        # The model's input is smaller than the second page.
        assert ((frame.rgb[..., 0] > 127) == inside).mean() > 0.99
    assert run('a.tif', '-o', 'out', '--format', 'png', *sandbox) == 1


def test_animations_in_python(backend):
    save_animation('a.gif')
    inferencer = BiRefNetInferencer(backend=backend)
    assert inferencer('a.gif').shape == (32, 64)
    maps = inferencer('a.gif', 'out', frames='all', dtype='uint8', batch_size=3)
    assert backend.shapes[-1] == (3, 32, 64)
    assert [np.array_equal(each, square(index)[..., 0]) for index, each in enumerate(maps)] == [True] * 3
    assert isinstance(load_frames('out/a.gif'), LoadedSequence)
    with pytest.raises(ValueError, match="frames='some', must be 'first' or 'all'"):
        inferencer('a.gif', frames='some')


def test_animations_have_limits(backend, capsys):
    save_animation('a.gif')
    assert run('a.gif', '-o', 'out', '--max-pixels', '0.006') == 1
    assert '3 frames have 6144 pixels together, more than the limit of 6000' in capsys.readouterr().err
    assert run('a.gif', '-o', 'out', '--max-pixels', '0.006', '--frames', 'first') == 0


# Which files


@pytest.fixture
def folder(tmp_path):
    for name in ('a.jpg', 'a_mask.png', 'sub/b.jpg', 'sub/raw/c.jpg'):
        (tmp_path / 'in' / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(square(0)).save(tmp_path / 'in' / name)
    return tmp_path / 'in'


@pytest.mark.parametrize(
    ('options', 'expected'),
    [
        (['--no-recursive'], ['a.png', 'a_mask.png']),
        (['--include', '*.jpg'], ['a.png', 'sub/b.png', 'sub/raw/c.png']),
        (['--exclude', '*_mask.*', 'sub/raw/*'], ['a.png', 'sub/b.png']),
        (['--include', 'sub/*', '--exclude', 'c.*'], ['sub/b.png']),
        (['--limit', '2'], ['a.png', 'a_mask.png']),
    ],
)
def test_options_select_input_files(backend, folder, tmp_path, options, expected):
    assert run('in', '-o', 'out', *options) == 0
    assert sorted(str(path.relative_to(tmp_path / 'out')) for path in (tmp_path / 'out').rglob('*.png')) == expected
    names = dict(zip((name.strip('-').replace('no-', '') for name in options[::2]), [options[1:]]))
    if 'limit' in names:  # the next run goes on with the others
        assert run('in', '-o', 'out', '--skip-existing', '--limit', '2') == 0
        assert len(list((tmp_path / 'out').rglob('*.png'))) == 4
    maps = BiRefNetInferencer(backend=backend)('in', recursive='recursive' not in names)
    assert len(maps) == (2 if 'recursive' in names else 4)


# Masks of one's own


def test_masks(backend, folder, tmp_path, capsys):
    """From a folder by path, of another size, and from the alpha of a cut-out."""
    gray = np.zeros((32, 64), np.uint8)
    gray[4:20, 10:30] = 77
    for name in ('a.png', 'sub/b.webp'):
        (tmp_path / 'masks' / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(gray).save(tmp_path / 'masks' / name, lossless=True)
    Image.fromarray(np.dstack([square(0), gray])).save(tmp_path / 'rgba.png')
    assert run('in', '-o', 'out', '--mask', 'masks', '--include', '*.jpg', '--no-estimate-foreground') == 1
    assert 'failed: in/sub/raw/c.jpg: no mask masks/sub/raw/c.*' in capsys.readouterr().err
    for name in ('a', 'sub/b'):
        found = np.asarray(Image.open(f'out/{name}.png'))
        assert np.array_equal(found[..., 3], gray)
    assert not backend.shapes
    assert run('in/a.jpg', '-o', 'x.png', '--mask', 'rgba.png', '--save', 'mask', '--levels', '0.1', '0.2') == 0
    assert np.array_equal(np.asarray(Image.open('x.png')), np.where(gray, 255, 0))
    Image.fromarray(gray[::2, ::2]).save('half.png')
    assert run('in/a.jpg', '-o', 'y.png', '--mask', 'half.png', '--box', '12', '0', '64', '32', '--save', 'mask') == 0
    half = np.asarray(Image.open('y.png')).astype(int)
    assert not half[:, :12].any()
    assert np.abs(half[6:18, 14:28] - 77).max() == 0
    Image.fromarray(gray[:, :32]).save('narrow.png')
    assert run('in/a.jpg', '-o', 'z.png', '--mask', 'narrow.png') == 1
    assert 'narrow.png: a mask of 32x32 pixels does not fit in/a.jpg of 64x32' in capsys.readouterr().err


def test_guide(backend, folder, tmp_path, capsys):
    """Coarse masks from a folder reach a backend that takes them as the fourth channel."""
    (tmp_path / 'coarse').mkdir()
    gray = np.repeat(np.arange(64, dtype=np.uint8)[None], 32, 0)
    Image.fromarray(gray).save(tmp_path / 'coarse/a.png')
    words = ('in/a.jpg', '-o', 'out', '--save', 'mask', '--guide', 'coarse')
    assert run(*words) == 2
    assert 'guide: red takes no coarse mask' in capsys.readouterr().err
    backend.takes_guide, backend.channel = True, 3
    assert run(*words) == 0
    np.testing.assert_array_equal(np.array(Image.open(tmp_path / 'out/a.png')), gray)
    assert run(*words, '--mask', 'coarse') == 2
    assert '--guide coarse: needs a model' in capsys.readouterr().err


def test_masks_in_python(folder, tmp_path):
    gray = np.full((32, 64), 51, np.uint8)
    cutout = remove_background(folder / 'a.jpg', mask=gray, estimate_foreground=False, levels=(0.1, 0.3))
    assert np.asarray(cutout)[..., 3].min() == np.asarray(cutout)[..., 3].max() == 128
    Image.fromarray(gray).save(tmp_path / 'mask.png')
    soft_map = MaskInferencer(tmp_path / 'mask.png')(folder / 'a.jpg', tmp_path / 'out', save='mask', invert=True)
    assert soft_map.min() == pytest.approx(0.8)
    assert (np.asarray(Image.open(tmp_path / 'out/a.png')) == 204).all()


def test_a_mask_for_each_frame(backend):
    save_animation('a.gif')
    first, *others = (Image.fromarray(square(2 - index)[..., 0]) for index in range(3))
    first.save('masks.gif', save_all=True, append_images=others, duration=50)
    assert run('a.gif', '-o', 'b.webp', '--mask', 'masks.gif') == 0
    alphas = [rgba(frame)[..., 3] for frame in load_frames('b.webp').frames]
    assert [np.array_equal(alpha, square(2 - index)[..., 0]) for index, alpha in enumerate(alphas)] == [True] * 3


# The report


@pytest.mark.parametrize('report', ['.', '/', 'in', 'gone/report.json'])
def test_report_that_cannot_be_written(backend, folder, capsys, report):
    assert run('in/a_mask.png', '-o', 'out', '--report', report) == 2
    assert f'error: --report {report}: must be a file in an existing folder' in capsys.readouterr().err
    assert not Path('out').exists()


def test_report(backend, folder):
    (folder / 'bad.png').write_text('bad')
    Image.fromarray(square(1)).save('one.gif')
    options = ['--save', 'mask', 'cutout', '--report', 'report.json', '--size', '64x96', '--scales', '1', '2']
    assert run('in/a_mask.png', 'in/bad.png', 'one.gif', '-o', 'out', *options) == 1
    report = json.loads(Path('report.json').read_text())
    assert {key: report[key] for key in ('written', 'skipped', 'failed', 'model')} == dict(
        written=2, skipped=0, failed=1, model='red'
    )
    found = {each['input']: each for each in report['images']}
    assert found['in/bad.png']['error'].startswith('in/bad.png: not an image')
    good = found['in/a_mask.png']
    assert good['outputs'] == dict(mask='out/mask/a_mask.png', cutout='out/cutout/a_mask.png')
    assert all(os.path.exists(path) for path in good['outputs'].values())
    assert (good['width'], good['height'], good['frames']) == (64, 32, 1)
    assert good['box'] == pytest.approx([8, 8, 20, 16], abs=1)  # inputs of other sizes soften the edge
    assert good['input_sizes'] == [[64, 96], [128, 192]]
    assert good['seconds'] > 0
    BiRefNetInferencer(backend=backend)('in/a_mask.png', report='python.json')
    assert json.loads(Path('python.json').read_text())['images'][0]['box'] == [8, 8, 20, 16]
