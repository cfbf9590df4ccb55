"""Files written from arrays, read back with decoders that the writer does not use: Pillow, OpenCV, libvpx."""

import os
import resource
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest
from PIL import Image
from videos import RED, frame_times, red_square_frame

from mmbirefnet.video.reader import ColorTags
from mmbirefnet.video.writer import write_video

TIMES = [0, 70, 100, 250, 300, 400]  # ms


def cutouts():
    """RGBA with alpha 255 in the square, but for a hole in it."""
    frames = [red_square_frame(index) for index in range(len(TIMES))]
    cutouts = [np.dstack([frame, np.where(frame[..., 0] > 128, 255, 0).astype(np.uint8)]) for frame in frames]
    for index, cutout in enumerate(cutouts):
        cutout[34:46, 20 + 4 * index : 32 + 4 * index, 3] = 0
    return cutouts


def write(path, frames, times=TIMES, **options):
    alpha = frames[0].shape[2] == 4
    size = frames[0].shape[:2]
    with write_video(path, size, Fraction(10), Fraction(1, 1000), alpha=alpha, **options) as writer:
        for frame, time in zip(frames, times):
            writer.write(frame, time, 100, Fraction(1, 1000))
    return path


def decode_rgba(path):
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        # FFmpeg's own VP9 decoder drops alpha.
        decoder = av.CodecContext.create('libvpx-vp9', 'r') if path.suffix == '.webm' else stream.codec_context
        packets = [*container.demux(stream)]
        return [frame.to_ndarray(format='rgba') for packet in packets for frame in decoder.decode(packet)]


@pytest.mark.parametrize('suffix', ['.mov', '.webm'])
def test_alpha_and_times_of_videos(tmp_path, suffix):
    path = write(tmp_path / f'a{suffix}', cutouts())
    frames = decode_rgba(path)
    assert frame_times(path) == pytest.approx([time / 1000 for time in TIMES], abs=1e-3)
    for frame, expected in zip(frames, cutouts(), strict=True):
        inside = expected[..., 3] > 0
        near = cv2.dilate(inside.astype(np.uint8), np.ones((9, 9))) - cv2.erode(
            inside.astype(np.uint8), np.ones((9, 9))
        )
        assert np.abs(frame[..., 3].astype(int) - expected[..., 3])[near == 0].max() <= 8
        assert np.abs(frame[inside & (near == 0)][:, :3].mean(0) - RED).max() < 5


@pytest.mark.parametrize('suffix', ['.gif', '.webp', '.apng'])
def test_animated_images(tmp_path, suffix):
    path = write(tmp_path / f'a{suffix}', cutouts())
    with Image.open(path) as image:
        assert (image.n_frames, image.info['loop']) == (len(TIMES), 0)
        durations = []
        for index, expected in enumerate(cutouts()):
            image.seek(index)
            pixels = np.asarray(image.convert('RGBA')).astype(int)
            durations.append(round(image.info['duration']))
            off = np.abs(pixels[..., 3] - expected[..., 3]) > 8
            off |= (expected[..., 3] > 0) & (np.abs(pixels[..., :3] - expected[..., :3]).max(2) > 30)
            assert off.mean() < 0.01
    assert durations[:-1] == list(np.diff(TIMES))


def test_colors_are_those_that_other_decoders_show(tmp_path):
    frames = [np.full((96, 128, 3), color, np.uint8) for color in ((200, 60, 90), (20, 180, 40))]
    for tags in (ColorTags(1, 1, 1), ColorTags(6, 6, 6), ColorTags(5, 5, 6), ColorTags(1, 1, 1, full_range=True)):
        path = write(tmp_path / 'a.mp4', frames, color=tags)
        with av.open(str(path)) as container:
            context = container.streams.video[0].codec_context
            assert (context.colorspace, context.color_primaries, context.color_trc) == (
                tags.matrix, tags.primaries, tags.transfer,
            )  # fmt: skip
            assert context.color_range == 1 + tags.full_range
            for frame, expected in zip(container.decode(video=0), frames, strict=True):
                luma, blue, red = (np.frombuffer(plane, np.uint8)[0].astype(float) for plane in frame.planes)
                kr, kb = (0.2126, 0.0722) if tags.matrix == 1 else (0.299, 0.114)
                y = luma / 255 if tags.full_range else (luma - 16) / 219
                scale = 255 if tags.full_range else 224
                rgb = np.array([y + 2 * (1 - kr) * (red - 128) / scale, 0, y + 2 * (1 - kb) * (blue - 128) / scale])
                rgb[1] = (y - kr * rgb[0] - kb * rgb[2]) / (1 - kr - kb)
                assert np.abs(255 * rgb - expected[0, 0]).max() < 4


@pytest.mark.parametrize(
    ('suffix', 'size'),
    [('.mp4', (128, 96)), ('.mov', (128, 96)), ('.mkv', (128, 96)), ('.nut', (140, 96)), ('.webm', (140, 96))],
)
def test_display_aspect(tmp_path, suffix, size):
    frames = [red_square_frame(0)[..., :3]] * 2
    path = write(tmp_path / f'a{suffix}', frames, pixel_aspect=Fraction(12, 11))
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.width, stream.height) == size
        shown = stream.width * (stream.sample_aspect_ratio or 1) / stream.height
    assert float(shown) == pytest.approx(128 / 96 * 12 / 11, rel=0.01)


@pytest.mark.parametrize(
    ('suffix', 'size'), [('.mp4', (46, 34)), ('.webm', (45, 33)), ('.nut', (45, 33)), ('.gif', (45, 33))]
)
def test_odd_sizes(tmp_path, suffix, size):
    path = write(tmp_path / f'a{suffix}', [np.full((33, 45, 3), RED, np.uint8)] * 2)
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
        assert (frame.width, frame.height) == size
        assert np.abs(frame.to_ndarray(format='rgb24').astype(int) - RED).max() < 6


@pytest.mark.parametrize('suffix', ['.mp4', '.mkv', '.mov', '.webm', '.gif', '.webp', '.apng'])
def test_a_full_disk_is_an_error_and_nothing_appears(tmp_path, suffix):
    frames = [np.random.default_rng(index).integers(0, 255, (96, 128, 3), np.uint8) for index in range(6)]
    path = tmp_path / f'a{suffix}'
    path.write_bytes(b'before')
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(OSError, match=rf'a\{suffix}: cannot be written'):
            write(path, frames)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert os.listdir(tmp_path) == [path.name]
    assert path.read_bytes() == b'before'


def test_wrong_frames_are_named_and_nothing_appears(tmp_path):
    with pytest.raises(ValueError, match=r'a\.mp4: frame of shape \(32, 64, 3\), must be \(96, 128, 3\)'):
        write(tmp_path / 'a.mp4', [red_square_frame(0), np.zeros((32, 64, 3), np.uint8)])
    assert not os.listdir(tmp_path)
