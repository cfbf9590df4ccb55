"""Videos with a red square, cut out by a back end that takes red for the object."""

import gc
import json
import shutil
import subprocess
import weakref

import cv2
import numpy as np
import pytest
from red import TakesRed

from mmbirefnet.apis import BiRefNetInferencer
from mmbirefnet.imaging.read import LoadedImage
from mmbirefnet.video import container
from mmbirefnet.video.container import VideoReader, VideoWriter
from mmbirefnet.video.process import process_video
from mmbirefnet.video.temporal import TemporalSmoother

# OpenCV 4.11 takes BT.709 for BT.601.
TOLERANCE = 30 if cv2.__version__.startswith('4.11.') else 12

with_ffmpeg = pytest.mark.skipif(shutil.which('ffmpeg') is None, reason='needs ffmpeg')
SIZE, RATE, FRAMES = (96, 128), 10, 12
BLUE, RED = (20, 30, 200), (220, 20, 30)


@pytest.fixture
def inferencer():
    return BiRefNetInferencer(backend=TakesRed())


def make_frame(index, size=SIZE):
    frame = np.full((*size, 3), BLUE, np.uint8)
    frame[32:64, 16 + 4 * index : 48 + 4 * index] = RED
    return frame


def write_silent(path, frames=FRAMES, size=SIZE):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'mp4v'), RATE, size[::-1])
    for index in range(frames):
        writer.write(cv2.cvtColor(make_frame(index, size), cv2.COLOR_RGB2BGR))
    writer.release()
    return path


@pytest.fixture
def source(tmp_path):
    return write_silent(tmp_path / 'square.mp4')


def read_frames(path):
    with VideoReader(path) as reader:
        return [image.rgb for image in reader]


def decode_rgba(path, size=SIZE):
    """Frames with alpha by ffmpeg; its own VP9 decoder drops alpha."""
    decoder = ['-c:v', 'libvpx-vp9'] if path.suffix == '.webm' else []
    command = ['ffmpeg', '-loglevel', 'error', *decoder, '-i', path, '-f', 'rawvideo', '-pix_fmt', 'rgba', '-']
    return np.frombuffer(subprocess.check_output(command), np.uint8).reshape(-1, *size, 4)


def probe(path):
    command = ['ffprobe', '-loglevel', 'error', '-show_streams', '-show_format', '-of', 'json', path]
    return json.loads(subprocess.check_output(command))


@with_ffmpeg
@pytest.mark.parametrize('suffix', ['.mov', '.webm'])
def test_cutout_holds_the_maps_as_alpha(inferencer, source, tmp_path, suffix):
    result = process_video(inferencer, source, tmp_path / f'out{suffix}')
    frames = decode_rgba(result.path)
    assert len(frames) == result.frames == result.declared_frames == FRAMES
    for index, frame in enumerate(frames):
        inside = (make_frame(index)[..., 0] > 128).astype(np.float32)
        near = cv2.dilate(inside, np.ones((9, 9))) - cv2.erode(inside, np.ones((9, 9)))
        assert np.abs(frame[..., 3] / 255.0 - inside)[near == 0].max() < 0.03
        assert np.abs(frame[inside * (1 - near) == 1][:, :3].mean(0) - RED).max() < 12


def test_green_screen_and_picture_behind(inferencer, source, tmp_path):
    green = read_frames(process_video(inferencer, source, tmp_path / 'green.mp4').path)
    assert len(green) == FRAMES
    assert np.abs(green[3][80:, :].reshape(-1, 3).mean(0) - (0, 177, 64)).max() < TOLERANCE
    assert np.abs(green[3][44:52, 36:52].reshape(-1, 3).mean(0) - RED).max() < TOLERANCE
    behind = np.full((50, 50, 3), (250, 250, 10), np.uint8)
    behind[:, 25:] = 20
    path = process_video(inferencer, source, tmp_path / 'behind.mp4', background=behind[..., ::-1]).path
    frame = read_frames(path)[0]
    assert np.abs(frame[80:, :30].reshape(-1, 3).mean(0) - (250, 250, 10)).max() < 4 + TOLERANCE
    assert np.abs(frame[80:, 100:].reshape(-1, 3).mean(0) - 20).max() < TOLERANCE


def test_mask_of_every_frame_in_batches(inferencer, source, tmp_path):
    from mmbirefnet.imaging.settings import Settings

    path = process_video(inferencer, source, tmp_path / 'm.mp4', save='mask', settings=Settings(batch_size=5)).path
    frames = read_frames(path)
    assert len(frames) == FRAMES
    for index, frame in enumerate(frames):
        assert abs((frame[..., 0] > 128).sum() - (make_frame(index)[..., 0] > 128).sum()) < 80


@with_ffmpeg
def test_sound_is_kept(inferencer, source, tmp_path):
    sounding = tmp_path / 'sound: #1 ü.mp4'
    subprocess.run(
        f'ffmpeg -loglevel error -i {source} -f lavfi -i sine=440:duration=1.2 -c:v copy -c:a aac -shortest'.split()
        + [f'file:{sounding}'],
        check=True,
    )
    for name, codec in (('a.mp4', 'aac'), ('a.mov', 'aac'), ('a.webm', 'opus'), ('a.mkv', 'aac')):
        streams = probe(process_video(inferencer, sounding, tmp_path / name).path)['streams']
        assert [s['codec_name'] for s in streams if s['codec_type'] == 'audio'] == [codec]
    quiet = process_video(inferencer, sounding, tmp_path / 'quiet.mp4', sound=False).path
    assert [s['codec_type'] for s in probe(quiet)['streams']] == ['video']


@with_ffmpeg
def test_odd_sizes(inferencer, tmp_path):
    source = tmp_path / 'odd.mkv'
    with VideoWriter(tmp_path / 'odd.mov', RATE, alpha=True) as writer:
        writer.write(np.zeros((33, 45, 4), np.uint8))
    subprocess.run(
        f'ffmpeg -loglevel error -i {writer.path} -c:v ffv1 {source}'.split(), check=True
    )  # 4:4:4, so that the size stays odd
    streams = probe(process_video(inferencer, source, tmp_path / 'even.mp4').path)['streams']
    assert (streams[0]['width'], streams[0]['height']) == (46, 34)


@with_ffmpeg
def test_variable_rate_keeps_its_duration(inferencer, source, tmp_path):
    variable = tmp_path / 'variable.mp4'
    # The second half at a third of the speed.
    subprocess.run(
        ['ffmpeg', '-loglevel', 'error', '-i', source, '-vf', 'setpts=if(lt(N\\,6)\\,N\\,6+3*(N-6))/10/TB']
        + ['-fps_mode', 'vfr', variable],
        check=True,
    )
    duration = float(probe(variable)['format']['duration'])
    result = process_video(inferencer, variable, tmp_path / 'constant.mp4')
    assert float(probe(result.path)['format']['duration']) == pytest.approx(duration, abs=0.35)
    assert result.frames >= FRAMES


def test_without_ffmpeg(inferencer, source, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, 'which', lambda name: None)
    result = process_video(inferencer, source, tmp_path / 'out.mp4')
    assert len(read_frames(result.path)) == FRAMES
    for name in ('out.mov', 'out.webm', 'out.mkv'):
        with pytest.raises(ValueError, match=f'{name}.*ffmpeg'):
            process_video(inferencer, source, tmp_path / name)


def test_few_frames_in_memory(inferencer, tmp_path, monkeypatch):
    source = write_silent(tmp_path / 'long.mp4', frames=60)
    alive, most = weakref.WeakSet(), 0
    make = LoadedImage

    def count(*args, **kwargs):
        nonlocal most
        image = make(*args, **kwargs)
        alive.add(image)
        most = max(most, len(alive))
        return image

    monkeypatch.setattr(LoadedImage, '__hash__', object.__hash__)
    monkeypatch.setattr(container, 'LoadedImage', count)
    process_video(inferencer, source, tmp_path / 'out.mp4', workers=2)
    assert 2 <= most <= 10
    gc.collect()
    assert not alive


@pytest.mark.parametrize(
    ('content', 'out', 'options', 'error', 'message'),
    [
        (b'', 'a.mp4', {}, OSError, 'in.mp4: no video that can be read'),
        (b'\x00' * 5000, 'a.mp4', {}, OSError, 'in.mp4: no video that can be read'),
        (None, 'a.mp4', {}, FileNotFoundError, 'in.mp4: no such file'),
        ('video', 'a.gif', {}, ValueError, r'a.gif: .gif is not written; .mp4, '),
        ('video', 'a.mp4', {'save': 'cutout'}, ValueError, 'a.mp4: .mp4 holds no alpha; .mov and .webm do'),
        ('video', 'a.mp4', {'smoothing': 1.0}, ValueError, 'smoothing=1.0'),
        ('video', 'a.mp4', {'save': 'all'}, ValueError, "save='all'"),
        ('video', 'a.mp4', {'background': 'no-such-color'}, ValueError, 'no-such-color'),
        ('video', 'a.mp4', {'background': 'red', 'save': 'mask'}, ValueError, "background='red'"),
        ('video', 'in.mp4', {}, ValueError, 'is the source itself'),
        ('video', 'there.mp4', {'overwrite': False}, FileExistsError, 'there.mp4: exists already'),
    ],
)
def test_errors(inferencer, tmp_path, content, out, options, error, message):
    source = tmp_path / 'in.mp4'
    if content == 'video':
        write_silent(source, 2)
    elif content is not None:
        source.write_bytes(content)
    (tmp_path / 'there.mp4').touch()
    before = sorted(tmp_path.iterdir())
    with pytest.raises(error, match=message):
        process_video(inferencer, source, tmp_path / out, **options)
    assert sorted(tmp_path.iterdir()) == before


def test_nothing_is_left_of_a_failure(source, tmp_path):
    class Fails(TakesRed):
        calls = 0

        def __call__(self, images):
            self.calls += 1
            if self.calls == 4:
                raise RuntimeError('out of memory')
            return super().__call__(images)

    before = sorted(tmp_path.iterdir())
    with pytest.raises(RuntimeError, match='out of memory'):
        process_video(BiRefNetInferencer(backend=Fails()), source, tmp_path / 'out.mp4')
    assert sorted(tmp_path.iterdir()) == before


@with_ffmpeg
def test_ffmpegs_message_is_handed_on(tmp_path, monkeypatch):
    monkeypatch.setitem(container.CONTAINERS, '.mp4', (('-c:v', 'no-such-codec'), None, ()))

    def write():
        with VideoWriter(tmp_path / 'a.mp4', RATE) as writer:
            for _ in range(100):
                writer.write(np.zeros((256, 256, 3), np.uint8))

    with pytest.raises(OSError, match=r'a\.mp4.*no-such-codec'):
        write()
    assert not list(tmp_path.iterdir())


def moving_texture(index):
    texture = cv2.resize(np.random.default_rng(0).integers(0, 255, (20, 30), np.uint8), (240, 160))
    frame = np.roll(texture, 3 * index, 1)
    inside = np.zeros((160, 240), np.float32)
    inside[40:120, 60 + 3 * index : 140 + 3 * index] = 1
    return np.repeat(frame[..., None], 3, 2), inside


def test_smoothing_steadies_noisy_maps_of_moving_objects():
    rng = np.random.default_rng(1)
    smooth = TemporalSmoother(0.7)
    raw, steadied = [], []
    for index in range(12):
        rgb, inside = moving_texture(index)
        noisy = (inside + rng.normal(0, 0.2, inside.shape)).astype(np.float32)
        average = smooth(rgb, noisy)
        raw.append(np.abs(noisy - inside)[:, 20:220].mean())
        steadied.append(np.abs(average - inside)[:, 20:220].mean())
    assert np.mean(steadied[4:]) < 0.65 * np.mean(raw[4:])


def test_smoothing_ends_at_a_cut():
    smooth = TemporalSmoother(0.9)
    rng = np.random.default_rng(2)
    smooth(rng.integers(0, 100, (64, 64, 3), np.uint8), np.ones((64, 64), np.float32))
    after = smooth(np.full((64, 64, 3), 255, np.uint8), np.zeros((64, 64), np.float32))
    assert after.max() < 1e-3


def test_smoothing_keeps_a_still_video_and_its_average():
    rgb, inside = moving_texture(0)
    smooth = TemporalSmoother(0.5)
    smooth(rgb, inside)
    np.testing.assert_allclose(smooth(rgb, inside), inside, atol=1e-5)
    np.testing.assert_allclose(smooth(rgb, np.zeros_like(inside)), 0.5 * inside, atol=1e-5)
    assert TemporalSmoother(0)(rgb, inside) is inside
