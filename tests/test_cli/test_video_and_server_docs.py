"""Check the commands, options, and figures of the video and server pages."""

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from doc_blocks import blocks, commands
from red import TakesRed, red_square
from videos import make_video

from mmbirefnet.apis import BiRefNetInferencer, inferencer
from mmbirefnet.cli import serve, video
from mmbirefnet.cli.main import main
from mmbirefnet.server.app import create_app
from mmbirefnet.server.limits import Limits, cost

ROOT = Path(__file__).parents[2]
NAME = 'docs/en/user_guides/video.md'
VIDEO, SERVER = ((ROOT / f'docs/en/user_guides/{name}.md').read_text('utf-8') for name in ('video', 'server'))


@pytest.fixture
def clip(tmp_path, monkeypatch):
    """The files that the page names."""
    monkeypatch.chdir(tmp_path)
    rgb, _ = red_square()
    cv2.imwrite('beach.jpg', rgb)
    make_video('clip.mp4', [rgb] * 3, sound='aac')


@pytest.mark.parametrize('words', commands(*blocks(NAME, 'commands')), ids=' '.join)
def test_video_commands(words, clip, monkeypatch):
    monkeypatch.setattr(video, 'inferencer_of', lambda args: BiRefNetInferencer(backend=TakesRed()))
    assert main(words[1:]) == 0
    assert Path(words[words.index('-o') + 1]).is_file()


def test_video_in_python(clip, monkeypatch):
    monkeypatch.setattr(inferencer, 'make_backend', lambda *_: TakesRed())
    for code in blocks(NAME, 'python'):
        exec(code, {})
    assert Path('clip.mov').is_file()


def test_fields_of_the_service():
    table = SERVER.split('| field |')[1].split('\n\n')[0]
    app = create_app(BiRefNetInferencer(backend=TakesRed()))
    (schema,) = (s for name, s in app.openapi()['components']['schemas'].items() if name.startswith('Body'))
    assert set(re.findall(r'`(\w+)`', ''.join(line.split('|')[1] for line in table.splitlines()[2:]))) == set(
        schema['properties']
    )


def test_limits_of_the_service():
    parser = argparse.ArgumentParser()
    serve.add_arguments(parser)
    args, default = parser.parse_args([]), Limits()
    assert (args.max_upload * 2**20, args.max_pixels, args.max_size, args.max_work) == (
        default.upload_bytes, default.megapixels, default.input_size, default.work,
    )  # fmt: skip
    names = ('queue', 'memory', 'upload_seconds', 'decode_seconds', 'seconds', 'decoders', 'batch')
    assert {name: getattr(args, name) for name in names} == {name: getattr(default, name) for name in names}
    rows = re.findall(r'^\| `(--[\w-]+)` \| ([\d.]+)(G?)', SERVER, re.M)
    shown = {option[2:].replace('-', '_'): float(number) * (2**30 if unit else 1) for option, number, unit in rows}
    assert set(shown) == {
        'memory', 'max_upload', 'max_pixels', 'max_size', 'max_work', 'queue', 'upload_seconds', 'decode_seconds',
        'seconds',
    }  # fmt: skip
    for name, value in shown.items():
        assert getattr(args, name) == value, name
    assert 'http://127.0.0.1:8000' in SERVER
    assert (args.host, args.port) == ('127.0.0.1', 8000)


def test_figures_of_the_temporal_smoother(tmp_path):
    ((_, script, out),) = commands(*blocks(NAME, 'smoothing'))
    done = subprocess.run(
        [sys.executable, ROOT / script, tmp_path / out], capture_output=True, text=True, timeout=120,
        env=os.environ | {'PYTHONPATH': str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    printed = [[float(value) for value in re.findall(r' (0\.\d{3,4})\b', line)] for line in done.stdout.splitlines()]
    shown = [
        [float(value) for value in re.findall(r'\| (0\.\d+) ', line)]
        for line in re.findall(r'^\| (?:single frames|smoothing).*$', VIDEO, re.M)
    ]
    # Optical flow differs a little between processors.
    np.testing.assert_allclose(printed, shown, atol=0.01)
    assert (tmp_path / out).is_file()


def test_costs_of_the_service():
    one = cost(10**6, 'cutout', 'png', False), cost(10**6, 'mask', 'webp'), cost(10**6, 'composite', 'jpg', False)
    assert one == (44_000_000, 51_000_000, 56_000_000)
    assert f'needs {cost(50 * 10**6, "cutout", "png", True, 0, 1024**2) / 2**30:.1f} GiB on a CPU' in SERVER


@pytest.mark.parametrize(('text', 'size'), [('512M', 2**29), ('1.5g', 3 * 2**29), ('100', 100 * 2**20)])
def test_sizes_of_memory(text, size):
    parser = argparse.ArgumentParser()
    serve.add_arguments(parser)
    assert parser.parse_args(['--memory', text]).memory == size


@pytest.mark.parametrize(
    'words',
    [['--memory', 'inf'], ['--memory', '-1G'], ['--max-upload', 'inf'], ['--max-pixels', 'nan'], ['--seconds', 'inf']],
)
def test_invalid_limits_are_rejected(words, capsys):
    try:
        status = main(['serve', '--port', '0', *words])
    except SystemExit as error:
        status = error.code
    assert status == 2
    error = capsys.readouterr().err
    assert 'Traceback' not in error
    assert words[0].strip('-').replace('-', '_') in error.replace('-', '_')


@pytest.mark.parametrize(
    ('texts', 'models'),
    [
        (None, {None: None}),
        (['BiRefNet_lite'], {None: 'BiRefNet_lite'}),
        (['a=b/c.pth'], {'a': 'b/c.pth'}),
        (['me/BiRefNet_HR', 'x/y.pth', 'https://h.example/?q=1'], {
            'BiRefNet_HR': 'me/BiRefNet_HR', 'y': 'x/y.pth', '?q=1': 'https://h.example/?q=1',
        }),
    ],
)  # fmt: skip
def test_names_of_several_checkpoints(texts, models):
    assert serve.named_checkpoints(texts) == models


def test_models_and_workers_of_the_command(monkeypatch):
    made = []

    def make(args):
        made.append((args.checkpoint, args.device))
        return BiRefNetInferencer(backend=TakesRed())

    monkeypatch.setattr(serve, 'inferencer_of', make)
    parser = argparse.ArgumentParser()
    serve.add_arguments(parser)
    models = serve.inferencers_of(
        parser.parse_args(['--checkpoint', 'a=x.pth', '--checkpoint', 'b=y.pth', '--workers', '2', '--device', 'cpu'])
    )
    assert {name: len(copies) for name, copies in models.items()} == {'a': 2, 'b': 2}
    assert made == [('x.pth', 'cpu'), ('x.pth', 'cpu'), ('y.pth', 'cpu'), ('y.pth', 'cpu')]
    assert list(serve.inferencers_of(parser.parse_args([]))) == ['red']
    for words, message in (
        ('--checkpoint a/x.pth --checkpoint b/x.pth', 'another model is named x. Fix: write NAME=b/x.pth'),
        ('--workers 0', '--workers 0: must be 1 or more'),
        ('--workers 2 --device cuda:1', '--device cuda:1 is a single device'),
        ('--workers 99 --device cuda', 'this machine has .* GPUs'),
    ):
        with pytest.raises(ValueError, match=message):
            serve.inferencers_of(parser.parse_args(words.split()))
