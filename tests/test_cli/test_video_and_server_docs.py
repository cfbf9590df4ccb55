"""What docs/video.md and docs/server.md show is what there is."""

import argparse
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from red import TakesRed, red_square
from videos import make_video

from mmbirefnet.apis import BiRefNetInferencer
from mmbirefnet.cli import serve, video
from mmbirefnet.cli.main import main
from mmbirefnet.server.app import create_app
from mmbirefnet.server.limits import Limits

DOCS = Path(__file__).parents[2] / 'docs'
VIDEO, SERVER = ((DOCS / f'{name}.md').read_text('utf-8') for name in ('video', 'server'))


@pytest.mark.parametrize('command', re.findall(r'^mmbirefnet video [^#\n]+', VIDEO, re.M))
def test_video_commands(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(video, 'inferencer_of', lambda args: BiRefNetInferencer(backend=TakesRed()))
    rgb, _ = red_square()
    cv2.imwrite('beach.jpg', rgb)
    make_video('clip.mp4', [rgb] * 3, sound='aac')
    words = shlex.split(command)[1:]
    assert main(words) == 0
    assert Path(words[words.index('-o') + 1]).is_file()


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
    assert (args.max_upload * 2**20, args.max_pixels, args.max_size, args.queue, args.upload_seconds) == (
        default.upload_bytes, default.megapixels, default.input_size, default.queue, default.upload_seconds,
    )  # fmt: skip
    for shown in (
        '`--upload-seconds` (30)',
        '`--max-upload` MiB (32)',
        '`--max-pixels` megapixels (50',
        '(8) are under',
    ):
        assert shown in SERVER
    assert 'http://127.0.0.1:8000' in SERVER
    assert (args.host, args.port) == ('127.0.0.1', 8000)


def test_figures_of_the_temporal_smoother(tmp_path):
    (command,) = re.findall(r'^python (tools/analysis_tools/temporal_smoothing.py .+)$', VIDEO, re.M)
    script, out = command.split()
    root = DOCS.parent
    done = subprocess.run(
        [sys.executable, root / script, tmp_path / out], capture_output=True, text=True, timeout=120,
        env=os.environ | {'PYTHONPATH': str(root)},
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
