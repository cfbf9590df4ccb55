"""``mmbirefnet video`` on videos with a red square, with a backend that predicts 1 where red prevails."""

import os
import subprocess
import sys

import cv2
import numpy as np
import pytest
from red import TakesRed
from videos import constant_frame, make_video

from mmbirefnet.apis import BiRefNetInferencer
from mmbirefnet.cli import video
from mmbirefnet.cli.main import main


@pytest.fixture(autouse=True)
def red_inferencer(monkeypatch):
    monkeypatch.setattr(video, 'inferencer_of', lambda args: BiRefNetInferencer(backend=TakesRed()))


@pytest.fixture
def source(tmp_path):
    return make_video(tmp_path / 'red.avi', 20, codec='mjpeg', pix_fmt='yuvj420p')


def test_writes_the_video_and_prints_its_name(source, tmp_path, capsys):
    out = tmp_path / 'out/red.mp4'
    assert main(['video', str(source), '-o', str(out), '--smoothing', '0.5', '--no-sound', '--quiet']) == 0
    assert f'{out}: 20 frames' in capsys.readouterr().out
    capture = cv2.VideoCapture(str(out))
    seen, frame = capture.read()
    assert seen
    assert np.abs(frame[80:, 80:].reshape(-1, 3).mean(0)[::-1] - (0, 177, 64)).max() < 12
    assert main(['video', str(source), '-o', str(out), '--no-sound']) == 2
    assert 'exists already' in capsys.readouterr().err
    assert main(['video', str(source), '-o', str(out), '--save', 'mask', '--overwrite', '--no-sound']) == 0


@pytest.mark.parametrize('name', ['red.mkv', 'red.ts', 'red.webm'])
def test_whole_files_exit_with_0(tmp_path, capsys, name):
    codec, sound = ('libvpx', 'libopus') if name.endswith('.webm') else ('libx264', 'aac')
    source = make_video(tmp_path / name, codec=codec, sound=sound, sound_seconds=1.4)
    assert main(['video', str(source), '-o', str(tmp_path / 'out.mkv'), '--quiet']) == 0
    captured = capsys.readouterr()
    assert '12 frames' in captured.out
    assert captured.err == ''


def test_a_source_that_is_cut_off_is_named(source, tmp_path, capsys):
    short = tmp_path / 'short.avi'
    short.write_bytes(source.read_bytes()[: source.stat().st_size * 8 // 10])
    assert main(['video', str(short), '-o', str(tmp_path / 'short.mp4'), '--no-sound']) == 1
    assert f'failed: {short}: is cut off' in capsys.readouterr().err
    assert (tmp_path / 'short.mp4').is_file()


def test_sound_that_is_encoded_again_is_noted(tmp_path, capsys):
    source = make_video(tmp_path / 'a.mkv', 3, sound='flac')
    assert main(['video', str(source), '-o', str(tmp_path / 'a.mp4'), '--quiet']) == 0
    assert 'sound stream 1 is encoded as aac: .mp4 does not hold flac' in capsys.readouterr().err


def test_hdr_names_the_option(tmp_path, capsys):
    source = make_video(
        tmp_path / 'a.mkv', [constant_frame((500, 512, 512), (96, 128), 'yuv420p10le')], codec='libx264',
        pix_fmt='yuv420p10le', color=(9, 9, 16, 1),
    )  # fmt: skip
    assert main(['video', str(source), '-o', str(tmp_path / 'a.mp4')]) == 2
    assert '--tone-map' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (['no.mp4', '-o', 'a.mp4'], 'no.mp4: no such file'),
        (['no.mp4'], '-o/--out'),
        (['a.mp4', '-o', 'b.mp4', '--save', 'all'], '--save'),
        (['a.mp4', '-o', '-'], '-o -: videos are not written to the standard output'),
        (['a.mp4', '-o', 'b.mp4', '--workers', '0'], 'workers=0, must be 1 or more'),
        (['https://example.org/a.mp4', '-o', 'b.mp4'], 'https://example.org/a.mp4: a URL'),
    ],
)
def test_errors(words, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_video(tmp_path / 'a.mp4', 2)
    try:
        status = main(['video', *words])
    except SystemExit as exit:
        status = exit.code
    assert status == 2
    said = capsys.readouterr().err
    assert 'error: ' in said
    assert message in said
    assert [path.name for path in tmp_path.iterdir()] == ['a.mp4']


def test_names_that_are_not_utf8_in_a_terminal_of_ascii(tmp_path):
    names = [os.path.join(os.fsencode(tmp_path), name) for name in (b'\xe9t\xe9.mp4', b'\xff.mp4')]
    make_video(tmp_path / 'a.mp4', 2).rename(os.fsdecode(names[0]))
    script = (
        'import sys; from red import TakesRed; from mmbirefnet.apis import BiRefNetInferencer; '
        'from mmbirefnet.cli import video; from mmbirefnet.cli.main import main; '
        'video.inferencer_of = lambda args: BiRefNetInferencer(backend=TakesRed()); '
        'sys.exit(main(["video", sys.argv[1], "-o", sys.argv[2]]))'
    )
    environment = os.environ | {'PYTHONIOENCODING': 'ascii', 'PYTHONPATH': os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, '-c', script, *names], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert '2 frames' in done.stdout
    assert os.path.isfile(names[1])


def test_without_pyav_the_error_names_the_extra(monkeypatch):
    for name in [name for name in sys.modules if name.startswith('mmbirefnet.video')]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, 'av', None)
    with pytest.raises(ImportError, match=r"Fix: pip install 'mmbirefnet\[video\]'"):
        import mmbirefnet.video  # noqa: F401
