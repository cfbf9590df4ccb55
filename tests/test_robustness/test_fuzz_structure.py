"""Files, options and requests that are built to be odd: each is read right, or ends in an error that names it.

The long run: ``MMBIREFNET_FUZZ_CASES=10000 pytest tests/test_robustness/test_fuzz_structure.py``.
"""

import dataclasses
import multiprocessing
import os
import resource
import time
from collections import OrderedDict
from concurrent.futures import ProcessPoolExecutor

import fuzz_videos
import numpy as np
import pytest
import structured_files
import torch
from fastapi.testclient import TestClient
from fuzz import cases, one_of
from PIL import Image
from red import TakesRed, red_square

from mmbirefnet.apis import BiRefNetInferencer, Settings
from mmbirefnet.cli import cut, main
from mmbirefnet.fileio.checkpoints import read_state_dict
from mmbirefnet.imaging.sandbox import ImageDecoder
from mmbirefnet.imaging.sandbox_worker import HEADER_BYTES
from mmbirefnet.server.app import create_app
from mmbirefnet.server.limits import Limits
from mmbirefnet.video.reader import VideoReader
from mmbirefnet.video.timeline import MAX_GAP

pytestmark = pytest.mark.filterwarnings('ignore')  # what Pillow says of damaged files besides
SECONDS = 5  # to decode a file
MEGAPIXELS = 4


@pytest.fixture
def canary(tmp_path, monkeypatch):
    """A file that exists as soon as something starts Ghostscript or a shell by its name."""
    file = tmp_path / 'started'
    (tmp_path / 'bin').mkdir()
    for name in ('gs', 'gswin32c', 'gswin64c', 'convert', 'magick', 'ffmpeg'):
        program = tmp_path / 'bin' / name
        program.write_text(f'#!/bin/sh\n: > {file}\n')
        program.chmod(0o755)
    monkeypatch.setenv('PATH', f'{tmp_path / "bin"}{os.pathsep}{os.environ["PATH"]}')
    return file


def children_peak() -> int:
    """Largest resident memory of a child process that has ended, in bytes."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss << 10


def decode_cases(build) -> tuple[int, int]:
    """Decode all cases in this process's workers: the number of images, and the workers' peak memory in bytes."""
    read = 0
    with ImageDecoder(seconds=SECONDS, max_pixels=MEGAPIXELS * 10**6) as decoder:
        for name, rng in cases():
            data = build(rng)
            start = time.monotonic()
            try:
                image = decoder.read(data, name)
            except (OSError, ValueError) as error:
                message = str(error)
            else:
                message, read = name, read + 1
                assert image.rgb.size <= 3 * MEGAPIXELS * 10**6, name
            assert message.startswith(name)
            assert time.monotonic() - start < SECONDS + 5, name
    return read, children_peak()


@pytest.mark.parametrize('build', [structured_files.nested, structured_files.claims])
@pytest.mark.soak
def test_images(canary, build):
    """In a worker process: within its time and memory, without starting a program."""
    # In a process of its own, whose only children are the workers.
    with ProcessPoolExecutor(1, multiprocessing.get_context('spawn')) as pool:
        read, peak = pool.submit(decode_cases, build).result()
    assert read
    assert not canary.exists()
    # What the workers import, and what they may allocate.
    assert peak < HEADER_BYTES + 64 * MEGAPIXELS * 10**6 + 200 * 2**20


SMALL = Image.fromarray(red_square(32, 48)[0])
TYPES = (None, True, False, 0, 1, -1, 2, 31, 32, 33, 64, 96, 500, 501, 10**20, 0.0, -0.0, 0.5, 0.99, 1.0, 1.5, 1e-300,
1e300,
         float('nan'), float('inf'), -float('inf'), '', 'image', '32', '0.5', '1x2', 'nan', b'64', (), [], {},
         (1,), (0, 1),
         (0.04, 0.96), (1, 0), (32, 64), [64, 32], (0, 0, 20, 20), (5, 5, 1e8, 1e8), (0, 0, 1.7e308, 9), (-5, -5, 4, 4),
         (9, 9, 9, 9), (0.5, 1, 2), (1, float('nan')), ('a', 'b'), 'guided', range(4), {1, 2}, object(), np.int64(32),
         np.float32(0.5),
         np.float64('nan'), np.bool_(True), np.array([32, 64]), np.zeros((2, 2)), np.array(0.5), 3j)  # fmt: skip
OPTIONS = tuple(field.name for field in dataclasses.fields(Settings))


def test_options():
    """Of every type: named by an error, or a map in [0, 1]."""
    inferencer, predicted = BiRefNetInferencer(backend=TakesRed()), 0
    for name, rng in cases():
        chosen = rng.choice(OPTIONS, int(rng.integers(1, 4)), replace=False)
        options = {option: one_of(rng, TYPES) for option in chosen}
        label = f'{name}: {options}'
        try:
            settings = Settings(**options)
        except ValueError as error:
            assert str(error).split('=')[0] in options, label  # noqa: PT017
            continue
        try:
            soft_map = inferencer(SMALL, **{option: getattr(settings, option) for option in options})
        except ValueError as error:
            assert 'lies outside the image' in str(error), label  # noqa: PT017
            continue
        predicted += 1
        assert soft_map.shape == (32, 48), label
        assert 0 <= soft_map.min() <= soft_map.max() <= 1, label
    assert predicted


WORDS = ('', ' ', '0', '1', '-1', '32', '33', '64', '0.5', '1e300', '-1e300', 'nan', 'inf', '-inf', 'image', '32x64',
         '32x', 'x', '1e5', '0x20', '١٢', 'é', '\udcff', 'a\nb', '#fff', '#ff000080', 'rgb(1,2,3)', 'rgb(999,0,0)',
         'hsl(0,1%,1%)', 'red', 'first', 'guided', '.', '/', '/dev/null', '-', '--', 'mask', 'cutout', 'png', '.png',
         'webp', 'tiff', '*' * 200)  # fmt: skip
FLAGS = ('--size', '--max-size', '--batch-size', '--scales', '--box', '--margin', '--threshold', '--min-area',
         '--levels', '--grow', '--feather', '--crop', '--workers', '--max-pixels', '--background', '--format', '--tile',
         '--tile-overlap', '--refine', '--estimate-foreground', '--limit', '--frames', '--mask', '--max-download',
         '--include', '--report', '--save')  # fmt: skip
COUNTS = {'--box': 4, '--levels': 2}


def test_arguments_of_the_command(tmp_path, monkeypatch, capsys):
    """Written, or an error before or after the work: never a traceback, and the status says which."""
    monkeypatch.setattr(cut, 'inferencer_of', lambda args: BiRefNetInferencer(backend=TakesRed()))
    monkeypatch.chdir(tmp_path)
    SMALL.save('a.png')
    statuses = set()
    for name, rng in cases(0.3):
        words = [
            'cut',
            'a.png',
            '-o',
            one_of(rng, ('out', 'b.png', 'b.webp')),
            '--overwrite',
            '--quiet',
            '--no-sandbox',
        ]
        for flag in rng.choice(FLAGS, int(rng.integers(1, 3)), replace=False):
            words += [str(flag), *(one_of(rng, WORDS) for _ in range(COUNTS.get(str(flag), 1)))]
        try:
            status = main.main(words)
        except SystemExit as left:
            status = left.code
        said = capsys.readouterr()
        statuses.add(status)
        assert status in (0, 1, 2), f'{name}: {words}'
        assert (status == 0) == ('1 written' in said.out), f'{name}: {words}'
        assert status == 0 or 'error: ' in said.err or 'failed: ' in said.err, f'{name}: {words}'
    assert 2 in statuses


FIELDS = ('output', 'format', 'background', 'estimate_foreground', 'model', 'size', 'flip', 'threshold', 'min_area',
          'box', 'margin', 'levels', 'largest', 'fill_holes', 'grow', 'feather', 'invert', 'crop')  # fmt: skip


def test_requests():
    """Answered with an image, or with what is wrong with the request; never with 500."""
    limits, statuses = Limits(upload_bytes=200_000, megapixels=1, input_size=128, decode_seconds=SECONDS), set()
    content = structured_files.encoded(SMALL, 'PNG')
    app = create_app(BiRefNetInferencer(backend=TakesRed()), limits)
    with TestClient(app, raise_server_exceptions=False) as client:
        for name, rng in cases(0.3):
            fields = {}
            for field in rng.choice(FIELDS, int(rng.integers(4)), replace=False):
                words = [one_of(rng, (*WORDS, '\ud800')) for _ in range(4 if field == 'box' and rng.integers(2) else 1)]
                fields[str(field)] = ','.join(words).encode('utf-8', 'surrogatepass')
            files = {'file': ('a.png', structured_files.nested(rng) if rng.integers(4) == 0 else content)}
            if rng.integers(5) == 0:
                files['background_file'] = ('b.png', structured_files.claims(rng))
            status = client.post('/api/cut', files=files, data=fields).status_code
            statuses.add(status)
            assert status in (200, 400, 413, 422), f'{name}: {status} for {fields}'
    assert 200 in statuses


def test_videos(tmp_path):
    """Frames of one size at times that rise, or an error that names the file."""
    read = 0
    for name, rng in cases(0.3):
        path = fuzz_videos.odd_video(tmp_path / 'odd', rng)
        if path is None:
            continue
        start, last = time.monotonic(), -1
        try:
            with VideoReader(path) as reader:
                for frame in reader:
                    assert frame.time > last, name
                    assert frame.duration > 0, name
                    assert frame.image.size == reader.size, name
                    last, read = frame.time, read + 1
                assert last * reader.time_base < 50 * MAX_GAP, name  # 12 packets, some of them repeated
        except (OSError, ValueError) as error:
            assert str(path) in str(error), name  # noqa: PT017
        assert time.monotonic() - start < SECONDS, name
        path.unlink()
    assert read


def odd_tensor(rng):
    """A small tensor, a view of one that claims more, or one of an odd kind."""
    size = int(one_of(rng, (0, 1, 2, 1000, 70_000)))
    base = torch.ones(size, dtype=one_of(rng, (torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.bool)))
    if rng.integers(3) and size:
        shape = tuple(int(one_of(rng, (0, 1, 2, 300, 70_000, 2**20))) for _ in range(int(rng.integers(1, 4))))
        strides = [int(one_of(rng, (0, 0, 1, 2))) for _ in shape]
        if sum((side - 1) * stride for side, stride in zip(shape, strides)) < size:
            return base.as_strided(shape, strides)
    kinds = (lambda: base, lambda: base[:1].float() * float('nan'), lambda: base.reshape(1, -1).to_sparse())
    return one_of(rng, kinds)()


def test_checkpoints(tmp_path):
    """Objects that hold each other, views, and bytes that are changed: parameters, or an error that names the file."""
    read, path = 0, tmp_path / 'a.pth'
    for name, rng in cases(0.3):
        content = {'a': odd_tensor(rng)} if rng.integers(4) else {}
        for _ in range(int(one_of(rng, (0, 1, 2, 30, 60)))):
            key = one_of(rng, ('state_dict', 'model', 'meta', 'x', 7, None, ('a',)))
            content = one_of(rng, (dict, OrderedDict))(
                [(key, content), ('b', one_of(rng, (content, odd_tensor(rng), [])))]
            )
        torch.save(content, path, _use_new_zipfile_serialization=bool(rng.integers(2)))
        data = bytearray(path.read_bytes())
        for position in rng.integers(0, len(data), int(one_of(rng, (0, 0, 1, 4)))):
            data[position] = int(rng.integers(256))
        path.write_bytes(data)
        start = time.monotonic()
        try:
            state = read_state_dict(path)
        except ValueError as error:
            message = str(error)
        else:
            message, read = str(path), read + 1
            assert all(isinstance(value, torch.Tensor) for value in state.values()), name
        assert str(path) in message, name
        assert time.monotonic() - start < SECONDS, name
    assert read
