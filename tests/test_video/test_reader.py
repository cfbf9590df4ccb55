"""Frames, times and colors of videos made with PyAV's muxers; expected values are worked out by hand."""

import os
from fractions import Fraction

import numpy as np
import pytest
from videos import BLUE, RED, constant_frame, make_video, red_square_frame

from mmbirefnet.video import container, reader
from mmbirefnet.video.container import cut_off
from mmbirefnet.video.reader import ColorTags, VideoReader
from mmbirefnet.video.timeline import MAX_GAP


def read(path, **options):
    """All frames, and the reader after the last one."""
    with VideoReader(path, **options) as video:
        return list(video), video


def seconds(frames, video):
    return [float(frame.time * video.time_base) for frame in frames]


def assert_shows(frame, expected):
    """But for edges, which 4:2:0 blurs; the next frame of the moving square differs in 2 % of its pixels."""
    assert (np.abs(frame.image.rgb.astype(int) - expected).max(2) > 90).mean() < 0.01


def yuv_to_rgb(luma, blue, red, kr, kb, full=False):
    """ITU-R BT.601 and BT.709, 8 bits."""
    y, u, v = (luma / 255, (blue - 128) / 255, (red - 128) / 255) if full else (
        (luma - 16) / 219, (blue - 128) / 224, (red - 128) / 224,
    )  # fmt: skip
    r, b = y + 2 * (1 - kr) * v, y + 2 * (1 - kb) * u
    return np.clip(255 * np.array([r, (y - kr * r - kb * b) / (1 - kr - kb), b]), 0, 255)


@pytest.mark.parametrize(('name', 'codec'), [('a.mkv', 'libx264'), ('a.ts', 'libx264'), ('a.webm', 'libvpx')])
def test_whole_files_that_declare_no_number_of_frames(tmp_path, name, codec):
    sound = 'libopus' if name.endswith('.webm') else 'aac'
    path = make_video(tmp_path / name, codec=codec, sound=sound, sound_seconds=1.5)
    frames, video = read(path, sound=False)
    assert len(frames) == 12
    assert seconds(frames, video) == pytest.approx(np.arange(12) / 10, abs=1e-3)
    assert video.damage == []
    assert video.rate == 10


def test_frames_that_an_edit_list_hides(tmp_path):
    # What is left of a file that is cut without encoding: three frames before time 0, needed to decode the others.
    times = [-0.3 + index / 10 for index in range(12)]
    path = make_video(tmp_path / 'a.mp4', times=times, codec='libx264', codec_options={'bf': '0'}, key_frames=100)
    frames, video = read(path)
    assert video.expected_frames == 12
    assert len(frames) == 9
    assert seconds(frames, video) == pytest.approx(np.arange(9) / 10)
    assert video.damage == []
    assert_shows(frames[0], red_square_frame(3))


def test_rate_of_a_recorder_that_declares_its_clock(tmp_path):
    times = [0, 0.027, 0.065, 0.103, 0.131, 0.17, 0.2]
    path = make_video(tmp_path / 'a.webm', 7, times=times, rate=1000, codec='libvpx', options={'live': '1'})
    frames, video = read(path)
    assert seconds(frames, video) == pytest.approx(times)
    assert float(video.rate) == pytest.approx(6 / 0.2, rel=0.01)
    assert frames[-1].duration == 33  # of 1/30 s, in ms


def test_times_without_timestamps(tmp_path):
    frames, video = read(make_video(tmp_path / 'a.h264', codec='libx264'))
    assert seconds(frames, video) == pytest.approx(np.arange(12) / 10, abs=1e-6)


@pytest.mark.parametrize('count', [6, 40])
def test_a_gap_in_the_timestamps_makes_no_frames(tmp_path, count):
    times = [index / 10 for index in range(count)] + [10000 + index / 10 for index in range(count)]
    frames, video = read(make_video(tmp_path / 'a.mkv', 2 * count, times=times))
    assert seconds(frames, video) == pytest.approx(np.arange(2 * count) / 10, abs=2e-3)
    assert video.notes == ['1 gaps or jumps in the timestamps were closed']


def test_frames_that_are_shown_for_days(tmp_path):
    times = [0, 50_000, 50_011, 200_000, 400_000]
    path = make_video(tmp_path / 'a.apng', 5, times=times, time_base=Fraction(1), codec='apng', pix_fmt='rgba')
    frames, video = read(path)
    assert len(frames) == 5
    assert all(frame.duration > 0 for frame in frames)
    assert seconds(frames, video)[-1] < 5 * 2 * MAX_GAP


def test_rate_of_a_frame_a_day(tmp_path):
    times = [0, 90_000, 180_000]
    path = make_video(tmp_path / 'a.webm', 3, times=times, rate=1000, codec='libvpx', options={'live': '1'})
    frames, video = read(path)
    assert len(frames) == 3
    assert video.rate == Fraction(1, 1001)


def test_rate_of_a_file_that_is_damaged_further_on(tmp_path, monkeypatch):
    path = make_video(tmp_path / 'a.apng', 3, times=[0, 0.1, 0.2], rate=1000, codec='apng', pix_fmt='rgba')
    data = bytearray(path.read_bytes())
    start = data.index(b'fdAT') - 4
    data[start : start + 4] = b'\xff\xff\xff\xf0'  # the length of a chunk
    path.write_bytes(data)
    frames, video = read(path)
    assert len(frames) == 1
    assert 'cannot be read to its end' in video.damage[0]


def test_origin_is_that_of_the_sound_where_it_is_wanted(tmp_path):
    times = [0.5 + index / 10 for index in range(12)]
    path = make_video(tmp_path / 'a.mkv', times=times, sound='pcm_s16le', sound_seconds=1)
    assert seconds(*read(path, sound=True))[0] == pytest.approx(0.5)
    assert seconds(*read(path, sound=False))[0] == 0


@pytest.mark.parametrize(
    ('matrix', 'turned'),
    [
        ((1, 0, 0, 1), lambda frame: frame),
        ((0, -1, 1, 0), lambda frame: np.rot90(frame)),
        ((-1, 0, 0, -1), lambda frame: np.rot90(frame, 2)),
        ((0, 1, -1, 0), lambda frame: np.rot90(frame, -1)),
        ((-1, 0, 0, 1), lambda frame: frame[:, ::-1]),
        ((0, -1, -1, 0), lambda frame: np.rot90(frame)[:, ::-1]),
    ],
)
def test_frames_are_upright(tmp_path, matrix, turned):
    frame = np.full((96, 128, 3), BLUE, np.uint8)
    frame[8:40, 8:72] = RED
    path = make_video(tmp_path / 'a.mp4', [frame], matrix=matrix, aspect=Fraction(16, 11))
    frames, video = read(path)
    expected = turned(frame)
    assert frames[0].image.rgb.shape == expected.shape == (*video.size, 3)
    assert_shows(frames[0], expected)
    assert video.pixel_aspect == (Fraction(11, 16) if matrix[0] == 0 else Fraction(16, 11))


@pytest.mark.parametrize(
    ('size', 'tags', 'kr', 'kb', 'full', 'expected'),
    [
        ((720, 1280), None, 0.2126, 0.0722, False, ColorTags(1, 2, 2, False)),
        ((576, 768), None, 0.299, 0.114, False, ColorTags(6, 2, 2, False)),
        ((720, 1280), (6, 6, 6, 1), 0.299, 0.114, False, ColorTags(6, 6, 6, False)),
        ((96, 128), (1, 1, 1, 1), 0.2126, 0.0722, False, ColorTags(1, 1, 1, False)),
        ((96, 128), (1, 1, 1, 2), 0.2126, 0.0722, True, ColorTags(1, 1, 1, True)),
    ],
)
def test_colors_as_players_show_them(tmp_path, size, tags, kr, kb, full, expected):
    path = make_video(
        tmp_path / 'a.mkv', [constant_frame((120, 90, 170), size)], codec='libx264', color=tags,
        codec_options={'qp': '0'},
    )  # fmt: skip
    frames, video = read(path)
    assert video.color == expected
    np.testing.assert_allclose(frames[0].image.rgb[40, 40], yuv_to_rgb(120, 90, 170, kr, kb, full), atol=1)


def make_hdr(path, transfer):
    return make_video(
        path, [constant_frame((luma, 512, 512), (96, 128), 'yuv420p10le') for luma in (64, 600, 940)],
        codec='libx265', pix_fmt='yuv420p10le', color=(9, 9, transfer, 1),
        codec_options={'x265-params': 'log-level=none:lossless=1'},
    )  # fmt: skip


@pytest.mark.parametrize(('transfer', 'names'), [(16, r'PQ, BT\.2020'), (18, r'HLG, BT\.2020'), (14, r'BT\.2020')])
def test_hdr_is_rejected(tmp_path, transfer, names):
    with pytest.raises(ValueError, match=rf'a\.mkv: is HDR .*\({names}\).*--tone-map'):
        VideoReader(make_hdr(tmp_path / 'a.mkv', transfer))


@pytest.mark.soak  # libswscale computes a table of colors, 9 s of one core
def test_hdr_is_tone_mapped(tmp_path):
    frames, video = read(make_hdr(tmp_path / 'a.mkv', 16), tone_map=True)
    black, middle, white = (frame.image.rgb[40, 40] for frame in frames)
    assert black.max() <= 2
    assert white.min() >= 253
    # Luma 600 is 0.612 of the signal, 270 cd/m2: a little above the white of SDR (203), so brighter than its middle.
    assert 140 < middle.min() <= middle.max() < 200
    assert video.color == ColorTags()


def test_ten_bits_of_bt709_are_no_hdr(tmp_path):
    values = (480, 360, 680)  # four times (120, 90, 170)
    path = make_video(
        tmp_path / 'a.mkv', [constant_frame(values, (96, 128), 'yuv420p10le')], codec='libx264',
        pix_fmt='yuv420p10le', color=(1, 1, 1, 1), codec_options={'qp': '0'},
    )  # fmt: skip
    frames, _ = read(path)
    np.testing.assert_allclose(frames[0].image.rgb[40, 40], yuv_to_rgb(120, 90, 170, 0.2126, 0.0722), atol=1)


def test_frames_that_change_their_size(tmp_path):
    large, small = (make_video(tmp_path / f'{side}.ts', [red_square_frame(0, (side, 128))] * 3, codec='libx264')
                    for side in (96, 64))  # fmt: skip
    joined = tmp_path / 'joined.ts'
    joined.write_bytes(large.read_bytes() + small.read_bytes())
    frames, video = read(joined)
    assert len(frames) == 6
    assert {frame.image.size for frame in frames} == {(96, 128)}
    assert any('size of the frames changes' in note for note in video.notes)


@pytest.mark.parametrize(
    ('name', 'options'),
    [('a.mp4', {'options': {'movflags': 'faststart'}}), ('a.mkv', {}), ('a.webm', {'codec': 'libvpx'}), ('a.avi', {})],
)
def test_cut_off_files_and_damaged_ones(tmp_path, name, options):
    path = make_video(tmp_path / name, [np.random.default_rng(i).integers(0, 255, (96, 128, 3), np.uint8)
                                        for i in range(12)], key_frames=1, **options)  # fmt: skip
    assert cut_off(path) == ''
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 7 // 10])
    frames, video = read(path)
    assert 6 <= len(frames) <= 9
    assert video.damage[0] == f'is truncated: it declares {len(content)} bytes, but has {path.stat().st_size}'


def test_frames_that_cannot_be_decoded_are_counted_apart(tmp_path):
    path = make_video(tmp_path / 'a.mp4', key_frames=1, options={'movflags': 'faststart'})
    content = bytearray(path.read_bytes())
    start = content.index(b'mdat') + 4
    length = (len(content) - start) // 12
    content[start + 5 * length + 40 : start + 7 * length] = bytes(2 * length - 40)
    path.write_bytes(content)
    frames, video = read(path)
    assert 10 <= len(frames) <= 12
    assert len(video.damage) == 1
    assert 'damaged' in video.damage[0]
    assert 'truncated' not in video.damage[0]


CONCAT = "ffconcat version 1.0\nfile 'real.mp4'\n"
PLAYLIST = '#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nreal.mp4\n#EXT-X-ENDLIST\n'
SESSION = 'v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n'


@pytest.mark.parametrize(
    'content', [b'', bytes(5000), b'RIFF', CONCAT.encode(), PLAYLIST.encode(), SESSION.encode(), 'folder', None]
)
def test_what_is_no_video_is_named(tmp_path, content):
    make_video(tmp_path / 'real.mp4', 2)
    path = tmp_path / 'in.mp4'
    if content == 'folder':
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(OSError, match=r'in\.mp4: (no such file|cannot be read as a video|is not a regular file)'):
        VideoReader(path)


def test_sound_alone_and_large_frames_are_named(tmp_path, monkeypatch):
    make_video(tmp_path / 'sound.mp4', 0, sound='aac')
    with pytest.raises(OSError, match=r'sound\.mp4: cannot be read as a video \(it has no video stream'):
        VideoReader(tmp_path / 'sound.mp4')
    for module in (container, reader):
        monkeypatch.setattr(module, 'MAX_PIXELS', 96 * 128 - 1)
    with pytest.raises((OSError, ValueError), match=r'in\.mp4'):
        VideoReader(make_video(tmp_path / 'in.mp4', 2))


@pytest.mark.parametrize('name', [b'caf\xe9 \xff.mp4', b'http:a:b #1 %d.mp4', b'-i.mp4'])
def test_names_of_every_kind(tmp_path, name):
    path = make_video(tmp_path / 'plain.mp4', 2)
    path = path.rename(tmp_path / os.fsdecode(name))
    assert len(read(path)[0]) == 2


def test_metadata_that_are_not_utf8(tmp_path):
    path = make_video(tmp_path / 'a.mp4', 2)
    content = path.read_bytes()
    for name, latin in ((b'Lavf', b'L\xe9vf'), (b'VideoHandler', b'Vid\xe9oHandler')):  # of the file, of its stream
        assert name in content
        content = content.replace(name, latin)
    path.write_bytes(content)
    assert len(read(path)[0]) == 2
