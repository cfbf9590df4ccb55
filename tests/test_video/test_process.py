"""Videos with a red square, processed with a backend that predicts 1 where red prevails."""

import gc
import weakref
from fractions import Fraction

import cv2
import numpy as np
import pytest
from red import TakesRed
from videos import BLUE, RED, frame_times, make_video, red_square_frame, sound_times

from mmbirefnet.apis import BiRefNetInferencer
from mmbirefnet.imaging.read import LoadedImage
from mmbirefnet.imaging.settings import Settings
from mmbirefnet.video import process_video, reader
from mmbirefnet.video.reader import VideoReader

FRAMES = 12


@pytest.fixture
def inferencer():
    return BiRefNetInferencer(backend=TakesRed())


@pytest.fixture
def source(tmp_path):
    return make_video(tmp_path / 'square.mp4')


def read_images(path):
    with VideoReader(path) as video:
        return [frame.image for frame in video]


@pytest.mark.parametrize('suffix', ['.mov', '.webm', '.gif', '.apng'])
def test_cutout_holds_the_predictions_as_alpha(inferencer, source, tmp_path, suffix):
    result = process_video(inferencer, source, tmp_path / f'out{suffix}')
    images = read_images(result.path)
    assert len(images) == result.frames == FRAMES
    assert result.damage == result.notes == []
    for index, image in enumerate(images):
        inside = (red_square_frame(index)[..., 0] > 128).astype(np.float32)
        near = cv2.dilate(inside, np.ones((9, 9))) - cv2.erode(inside, np.ones((9, 9)))
        assert np.abs(image.alpha / 255.0 - inside)[near == 0].max() < 0.03
        assert np.abs(image.rgb[inside * (1 - near) == 1].mean(0) - RED).max() < 12


def test_green_screen_and_image_behind(inferencer, source, tmp_path):
    green = read_images(process_video(inferencer, source, tmp_path / 'green.mp4').path)
    assert len(green) == FRAMES
    assert np.abs(green[3].rgb[80:, :].reshape(-1, 3).mean(0) - (0, 177, 64)).max() < 4
    assert np.abs(green[3].rgb[44:52, 36:52].reshape(-1, 3).mean(0) - RED).max() < 12
    behind = np.full((50, 50, 3), (250, 250, 10), np.uint8)
    behind[:, 25:] = 20
    path = process_video(inferencer, source, tmp_path / 'behind.mp4', background=behind[..., ::-1]).path
    frame = read_images(path)[0].rgb
    assert np.abs(frame[80:, :30].reshape(-1, 3).mean(0) - (250, 250, 10)).max() < 8
    assert np.abs(frame[80:, 100:].reshape(-1, 3).mean(0) - 20).max() < 6


def test_image_behind_keeps_its_shape_on_the_screen(inferencer, tmp_path):
    # 128x96 pixels of 2:1 show as 256x96: a background of that size is shown whole.
    source = make_video(tmp_path / 'a.mp4', 2, aspect=Fraction(2))
    behind = np.full((96, 256, 3), 20, np.uint8)
    behind[:, :20] = behind[:, -20:] = (250, 250, 10)
    result = process_video(inferencer, source, tmp_path / 'out.mp4', background=behind[..., ::-1])
    with VideoReader(result.path) as video:
        assert video.pixel_aspect == 2
        frame = next(iter(video)).image.rgb
    assert np.abs(frame[70:, :8].reshape(-1, 3).mean(0) - (250, 250, 10)).max() < 8
    assert np.abs(frame[70:, -8:].reshape(-1, 3).mean(0) - (250, 250, 10)).max() < 8
    assert np.abs(frame[70:, 14:-14].reshape(-1, 3).mean(0) - 20).max() < 6


def test_mask_of_every_frame_in_batches(inferencer, source, tmp_path):
    path = process_video(inferencer, source, tmp_path / 'm.mp4', save='mask', settings=Settings(batch_size=5)).path
    images = read_images(path)
    assert len(images) == FRAMES
    for index, image in enumerate(images):
        assert abs((image.rgb[..., 0] > 128).sum() - (red_square_frame(index)[..., 0] > 128).sum()) < 80


@pytest.mark.parametrize(('save', 'name'), [(None, 'square.mov'), ('mask', 'square.mp4'), ('composite', 'square.mp4')])
def test_a_folder_gets_a_file_of_the_stem(inferencer, source, tmp_path, save, name):
    result = process_video(inferencer, source, tmp_path / 'out', save=save)
    assert (result.path, result.frames) == (tmp_path / 'out' / name, FRAMES)
    with pytest.raises(ValueError, match='pass the file or folder'):
        process_video(inferencer, source, None)


def test_former_names(inferencer, source, tmp_path):
    new = process_video(inferencer, source, tmp_path / 'new.mp4', save='composite', estimate_foreground=False)
    with pytest.deprecated_call(match='estimate_foreground='):
        old = process_video(inferencer, source, tmp_path / 'old.mp4', save='foreground', foreground=False)
    for one, other in zip(read_images(new.path), read_images(old.path), strict=True):
        assert np.array_equal(one.rgb, other.rgb)


def test_times_and_sound_are_kept(inferencer, tmp_path):
    times = [0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.3, 1.6, 1.9, 2.2, 2.5, 2.8]
    source = make_video(tmp_path / 'in: #1 ü.mkv', times=times, sound='aac', sound_seconds=3)
    for name in ('a.mp4', 'a.mov', 'a.mkv', 'a.webm'):
        path = process_video(inferencer, source, tmp_path / name).path
        found = frame_times(path)
        assert np.diff(found) == pytest.approx(np.diff(times), abs=2e-3)
        assert found[0] - sound_times(path)[0] == pytest.approx(0.5, abs=0.03)
    path = process_video(inferencer, source, tmp_path / 'quiet.mp4', sound=False).path
    with pytest.raises(IndexError):
        sound_times(path)
    assert frame_times(path) == pytest.approx(np.array(times) - 0.5, abs=2e-3)


def test_color_tags_are_kept(inferencer, tmp_path):
    source = make_video(tmp_path / 'a.mkv', 2, codec='libx264', color=(5, 5, 6, 2))
    for suffix in ('.mp4', '.webm', '.mkv'):
        with VideoReader(process_video(inferencer, source, tmp_path / f'out{suffix}', save='composite').path) as video:
            found = video.color
        assert (found.matrix, found.primaries, found.transfer, found.full_range) == (5, 5, 6, True)


def test_transparent_parts_of_a_video_stay_transparent(inferencer, tmp_path):
    frame = np.dstack([red_square_frame(0), np.full((96, 128), 255, np.uint8)])
    frame[40:56, 24:40, 3] = 0  # in the square
    source = make_video(
        tmp_path / 'a.webm', [frame] * 2, codec='libvpx-vp9', pix_fmt='yuva420p', codec_options={'auto-alt-ref': '0'}
    )
    image = read_images(process_video(inferencer, source, tmp_path / 'out.mov').path)[0]
    assert image.alpha[44:52, 28:36].max() < 8
    assert image.alpha[34:38, 18:46].min() > 247
    assert image.alpha[80:].max() < 8


def test_colors_are_estimated_on_the_device_of_the_model(source, tmp_path, monkeypatch):
    import torch

    seen = set()
    from mmbirefnet.imaging import compose

    def estimate(image, alpha, device=None):
        seen.add(device)
        return image

    monkeypatch.setattr(compose, 'estimate_foreground', estimate)
    backend = TakesRed()
    backend.device = torch.device('cuda:1')
    process_video(BiRefNetInferencer(backend=backend), source, tmp_path / 'out.mp4')
    assert seen == {torch.device('cuda:1')}


def test_few_frames_in_memory(inferencer, tmp_path, monkeypatch):
    source = make_video(tmp_path / 'long.mp4', 60)
    alive, most = weakref.WeakSet(), 0
    make = LoadedImage

    def count(*args, **kwargs):
        nonlocal most
        image = make(*args, **kwargs)
        alive.add(image)
        most = max(most, len(alive))
        return image

    monkeypatch.setattr(LoadedImage, '__hash__', object.__hash__)
    monkeypatch.setattr(reader, 'LoadedImage', count)
    process_video(inferencer, source, tmp_path / 'out.mp4', workers=2)
    assert 2 <= most <= 12
    gc.collect()
    assert not alive


@pytest.mark.parametrize(
    ('content', 'out', 'options', 'error', 'message'),
    [
        (b'', 'a.mp4', {}, OSError, 'in.mp4: cannot be read as a video'),
        (b'\x00' * 5000, 'a.mp4', {}, OSError, 'in.mp4: cannot be read as a video'),
        (None, 'a.mp4', {}, FileNotFoundError, 'in.mp4: no such file'),
        ('video', 'a.bmp', {}, ValueError, r'a.bmp: cannot write .bmp. Fix: use one of .mp4, '),
        (
            'video',
            'a.mp4',
            {'save': 'cutout'},
            ValueError,
            'a.mp4: .mp4 does not store alpha. Fix: use .mov, .webm, .* or',
        ),
        ('video', 'a.mp4', {'smoothing': 1.0}, ValueError, 'smoothing=1.0'),
        ('video', 'a.mp4', {'save': 'all'}, ValueError, "save='all'"),
        ('video', 'a.mp4', {'background': 'no-such-color'}, ValueError, 'no-such-color'),
        ('video', 'a.mp4', {'background': 'red', 'save': 'mask'}, ValueError, "background='red'"),
        ('video', 'in.mp4', {}, ValueError, 'is also the source'),
        ('video', 'there.mp4', {'overwrite': False}, FileExistsError, 'there.mp4: already exists'),
    ],
)
def test_errors(inferencer, tmp_path, content, out, options, error, message):
    source = tmp_path / 'in.mp4'
    if content == 'video':
        make_video(source, 2)
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


def test_video_without_the_object_is_transparent(inferencer, tmp_path):
    # No red anywhere: the cut-out is transparent throughout, in every frame.
    source = make_video(tmp_path / 'a.mp4', [np.full((96, 128, 3), BLUE, np.uint8)] * 3)
    images = read_images(process_video(inferencer, source, tmp_path / 'out.mov').path)
    assert [image.alpha.max() for image in images] == [0, 0, 0]
