"""``mmbirefnet video`` on videos with a red square, with a backend that predicts 1 where red prevails."""

import io
import os
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from av.codec.hwaccel import hwdevices_available
from red import TakesRed
from videos import constant_frame, make_video, red_square_frame, sound_times

from mmbirefnet.apis import BiRefNetInferencer
from mmbirefnet.cli import video
from mmbirefnet.cli.main import main
from mmbirefnet.imaging.compose import OUTPUTS, compose
from mmbirefnet.imaging.read import LoadedImage
from mmbirefnet.video import process_video
from mmbirefnet.video.container import RawVideo
from mmbirefnet.video.process import GREEN
from mmbirefnet.video.reader import VideoReader


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
    assert 'already exists' in capsys.readouterr().err
    assert main(['video', str(source), '-o', str(out), '--save', 'mask', '--overwrite', '--no-sound']) == 0


@pytest.mark.parametrize('name', ['red.mkv', 'red.ts', 'red.webm'])
def test_intact_files_exit_with_0(tmp_path, capsys, name):
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
    assert f'failed: {short}: is truncated' in capsys.readouterr().err
    assert (tmp_path / 'short.mp4').is_file()


def test_sound_that_is_encoded_again_is_noted(tmp_path, capsys):
    source = make_video(tmp_path / 'a.mkv', 3, sound='flac')
    assert main(['video', str(source), '-o', str(tmp_path / 'a.mp4'), '--quiet']) == 0
    assert 'sound stream 1 is re-encoded as aac: .mp4 does not support flac' in capsys.readouterr().err


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
        (
            ['a.mp4', '-o', 'b.mp4', '--format', 'nut'],
            '--format nut: is only for -o -. Fix: leave it out; the suffix of b.mp4',
        ),
        (['a.mp4', '-o', 'b.mp4', '--raw', '96x128'], "raw='96x128', must be WIDTHxHEIGHT@FRAMES-PER-SECOND"),
        (['a.mp4', '-o', 'b.mp4', '--raw', '0x1@1'], 'raw: frames of 0x1'),
        (['a.mp4', '-o', 'b.mp4', '--raw', '2x1@0'], 'raw: 0 frames per second'),
        (['a.mp4', '-o', 'b.mp4', '--raw', '2x1@5', '--pixel-format', 'rgb'], "raw: unknown pixel format 'rgb'"),
        (['a.mp4', '-o', 'b.mp4', '--hwaccel', 'gpu'], "hwaccel='gpu', must be one of vdpau, cuda, vaapi"),
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


# Pipes: the frames that come out are those of the Python call on the file.

PIPED = (
    'import sys; from red import TakesRed; from mmbirefnet.apis import BiRefNetInferencer; '
    'from mmbirefnet.cli import video; from mmbirefnet.cli.main import main; '
    'video.inferencer_of = lambda args: print("a log line") or BiRefNetInferencer(backend=TakesRed()); '
    'sys.exit(main(["video", *sys.argv[1:]]))'
)


def through_a_pipe(content, *words):
    """What the command writes to its standard output, and its messages."""
    environment = os.environ | {'PYTHONPATH': os.pathsep.join(sys.path)}
    command = [sys.executable, '-c', PIPED, '-', *words, '--quiet']
    done = subprocess.run(command, env=environment, input=content, capture_output=True, timeout=120)
    return done.returncode, done.stdout, done.stderr.decode()


def frames_of(path):
    with VideoReader(path) as reader:
        return [
            (frame.time * reader.time_base, frame.image.rgb if frame.image.alpha is None else rgba(frame.image))
            for frame in reader
        ]


def rgba(image):
    return np.dstack([image.rgb, image.alpha])


def cut_outs(path, save='cutout'):
    """Frames of a video as the command cuts them, from a file whose times are kept."""
    inferencer = BiRefNetInferencer(backend=TakesRed())
    with VideoReader(path) as reader:
        return [
            (frame.time * reader.time_base, compose(save, frame.image, inferencer.predict_image(frame.image)))
            for frame in reader
        ]


@pytest.mark.soak(keep=1)
@pytest.mark.parametrize('name', ['a.y4m', 'a.mkv', 'a.nut', 'a.ts'])
def test_a_container_through_a_pipe(tmp_path, name):
    codec = {'a.y4m': 'rawvideo', 'a.ts': 'libx264'}.get(name, 'mpeg4')
    source = make_video(tmp_path / name, 4, codec=codec, format='yuv4mpegpipe' if codec == 'rawvideo' else None)
    status, output, messages = through_a_pipe(source.read_bytes(), '-o', '-')
    assert (status, 'standard output.nut: 4 frames' in messages) == (0, True), messages
    (tmp_path / 'out.nut').write_bytes(output)
    found, expected = frames_of(tmp_path / 'out.nut'), cut_outs(source)
    assert [time for time, _ in found] == [time for time, _ in expected]
    for (_, pixels), (_, wanted) in zip(found, expected, strict=True):
        np.testing.assert_array_equal(pixels, wanted)


def test_bare_frames_through_a_pipe():
    frames = np.stack([red_square_frame(index) for index in range(3)])
    raw = ('--raw', '128x96@30000/1001', '-o', '-', '--format', 'raw')
    inferencer = BiRefNetInferencer(backend=TakesRed())
    images = [LoadedImage(frame) for frame in frames]
    maps = inferencer.predict_images(images)
    for save in OUTPUTS:
        out = io.BytesIO()
        form = RawVideo.parse('128x96@30000/1001')
        process_video(inferencer, io.BytesIO(frames.tobytes()), out, save=save, format='raw', raw=form)
        expected = [compose(save, image, alpha, GREEN) for image, alpha in zip(images, maps)]
        assert out.getvalue() == np.stack(expected).tobytes()
    opaque, out = np.dstack([frames[0], np.full((96, 128), 255, np.uint8)]), io.BytesIO()
    form = RawVideo.parse('128x96@25', 'rgba')
    process_video(inferencer, io.BytesIO(opaque.tobytes()), out, format='raw', raw=form)
    assert out.getvalue() == compose('cutout', images[0], maps[0]).tobytes()
    status, output, messages = through_a_pipe(frames.tobytes()[:-1000], *raw)
    assert status == 1
    assert output == np.stack([compose('cutout', image, alpha) for image, alpha in zip(images, maps)][:2]).tobytes()
    assert 'failed: standard input: ' in messages


@pytest.mark.parametrize('format', ['mkv', 'webm'])
def test_compressed_formats_to_a_pipe_keep_sound(tmp_path, format):
    source = make_video(tmp_path / 'a.mkv', 6, sound='libopus', sound_seconds=0.6)
    out = io.BytesIO()
    process_video(BiRefNetInferencer(backend=TakesRed()), source, out, format=format)
    (tmp_path / f'out.{format}').write_bytes(out.getvalue())
    assert len(frames_of(tmp_path / f'out.{format}')) == 6
    assert sound_times(tmp_path / f'out.{format}')[1] > 0.5
    result = process_video(BiRefNetInferencer(backend=TakesRed()), io.BytesIO(source.read_bytes()), tmp_path / 'b.mkv')
    assert (result.frames, result.notes) == (6, ['the sound of a pipe is not copied. Fix: pass a file name to keep it'])


def test_a_pipe_without_a_video_or_a_reader(tmp_path):
    status, output, messages = through_a_pipe(b'no video', '-o', '-')
    assert (status, output) == (2, b'')
    assert 'error: standard input: cannot be read as a video' in messages
    with pytest.raises(ValueError, match="format='mp4', must be one of nut, mkv, webm, raw for a pipe"):
        process_video(None, 'a.mp4', io.BytesIO(), format='mp4')
    with pytest.raises(ValueError, match="format='nut': is only for an open file"):
        process_video(None, 'a.mp4', tmp_path / 'b.mp4', format='nut')

    class Closed(io.BytesIO):
        def write(self, _):
            raise BrokenPipeError(32, 'Broken pipe')

    source = make_video(tmp_path / 'a.mkv', 4)
    for format in ('nut', 'raw'):
        with pytest.raises(OSError, match=rf'standard output.{format}: cannot be written \(Broken pipe\)'):
            process_video(BiRefNetInferencer(backend=TakesRed()), source, Closed(), format=format)


@pytest.mark.parametrize('name', ['cuda', 'vaapi'])
def test_without_the_hardware_frames_are_decoded_in_software(tmp_path, capsys, name):
    if name in hwdevices_available() and Path('/dev/nvidia0').exists():
        pytest.skip('the hardware is here')
    source = make_video(tmp_path / 'a.mkv', 3, codec='libx264')
    assert main(['video', str(source), '-o', str(tmp_path / 'out.nut'), '--hwaccel', name, '--quiet']) == 0
    assert re.fullmatch(
        rf'note: .*a.mkv: --hwaccel {name} is not used: (its device|this build).*; frames are decoded in software\n',
        capsys.readouterr().err,
    )
    for (_, pixels), (_, wanted) in zip(frames_of(tmp_path / 'out.nut'), cut_outs(source), strict=True):
        np.testing.assert_array_equal(pixels, wanted)
