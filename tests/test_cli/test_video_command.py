"""``mmbirefnet video`` on videos with a red square, with a back end that takes red for the object."""

import cv2
import numpy as np
import pytest
from red import TakesRed

from mmbirefnet.apis import BiRefNetInferencer
from mmbirefnet.cli import video
from mmbirefnet.cli.main import main

# OpenCV 4.11 takes BT.709 for BT.601.
TOLERANCE = 30 if cv2.__version__.startswith('4.11.') else 12


@pytest.fixture(autouse=True)
def red_inferencer(monkeypatch):
    monkeypatch.setattr(video, 'inferencer_of', lambda args: BiRefNetInferencer(backend=TakesRed()))


@pytest.fixture
def source(tmp_path):
    path = tmp_path / 'red.avi'
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'MJPG'), 10, (64, 64))
    for index in range(20):
        frame = np.random.default_rng(index).integers(0, 60, (64, 64, 3), np.uint8)
        frame[10:40, 10:40] = (10, 10, 220)
        writer.write(frame)
    writer.release()
    return path


def test_writes_the_video_and_says_so(source, tmp_path, capsys):
    out = tmp_path / 'out/red.mp4'
    assert main(['video', str(source), '-o', str(out), '--smoothing', '0.5', '--no-sound', '--quiet']) == 0
    assert f'{out}: 20 frames' in capsys.readouterr().out
    capture = cv2.VideoCapture(str(out))
    seen, frame = capture.read()
    assert seen
    assert np.abs(frame[50:, 50:].reshape(-1, 3).mean(0)[::-1] - (0, 177, 64)).max() < TOLERANCE
    assert main(['video', str(source), '-o', str(out), '--no-sound']) == 2
    assert 'exists already' in capsys.readouterr().err
    assert main(['video', str(source), '-o', str(out), '--save', 'mask', '--overwrite', '--no-sound']) == 0


def test_a_source_that_is_cut_off_is_told(source, tmp_path, capsys):
    short = tmp_path / 'short.avi'
    short.write_bytes(source.read_bytes()[: source.stat().st_size * 6 // 10])
    assert main(['video', str(short), '-o', str(tmp_path / 'short.mp4'), '--no-sound']) == 1
    assert 'of 20 frames (cut off?)' in capsys.readouterr().err
    assert (tmp_path / 'short.mp4').is_file()


@pytest.mark.parametrize('words', [['no.mp4', '-o', 'a.mp4'], ['no.mp4'], ['a.mp4', '-o', 'b.mp4', '--save', 'all']])
def test_errors(words, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    try:
        status = main(['video', *words])
    except SystemExit as exit:
        status = exit.code
    assert status == 2
    assert 'error: ' in capsys.readouterr().err
