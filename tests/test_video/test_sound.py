"""Sound that is taken over: copied bit by bit or encoded again, at its time."""

from fractions import Fraction

import av
import numpy as np
import pytest
from videos import frame_times, make_video, sound_times

from mmbirefnet.video.reader import VideoReader
from mmbirefnet.video.writer import write_video


def copy(source, path):
    """The video with its sound, and the notes."""
    with (
        VideoReader(source) as reader,
        write_video(path, reader.size, reader.rate, reader.time_base, sound=source) as writer,
    ):
        for frame in reader:
            writer.write(frame.image.rgb, frame.time, frame.duration, reader.time_base)
    return writer.notes


def packets(path):
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(audio=0) if packet.size]


def samples(path):
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        resampler = av.AudioResampler('flt', 'mono', 48000)
        frames = [out for frame in container.decode(stream) for out in resampler.resample(frame)]
        return np.concatenate([frame.to_ndarray()[0] for frame in frames])


@pytest.mark.parametrize(
    ('source', 'encoder', 'suffix', 'copied'),
    [
        ('a.mp4', 'aac', '.mp4', True),
        ('a.ts', 'aac', '.mp4', False),  # the same but for the headers of its packets
        ('a.mkv', 'aac', '.mov', True),
        ('a.mkv', 'libopus', '.mp4', True),
        ('a.mkv', 'libopus', '.webm', True),
        ('a.mkv', 'pcm_s16le', '.mov', True),
        ('a.mkv', 'flac', '.mkv', True),
        ('a.mkv', 'pcm_s16le', '.mp4', None),
        ('a.mp4', 'aac', '.webm', None),
        ('a.avi', 'libmp3lame', '.webm', None),
    ],
)
def test_sound_is_copied_where_the_container_holds_it(tmp_path, source, encoder, suffix, copied):
    codec = 'libx264' if source.endswith('.ts') else 'mpeg4'
    source = make_video(tmp_path / source, sound=encoder, codec=codec)
    out = tmp_path / f'out{suffix}'
    notes = copy(source, out)
    if copied is None:
        encoded = {'.mp4': 'aac', '.webm': 'libopus'}[suffix]
        assert [note.split(':')[0] for note in notes] == [f'sound stream 1 is re-encoded as {encoded}']
    else:
        assert notes == []
        assert not copied or packets(out) == packets(source)
    tone = samples(out)
    assert len(tone) / 48000 == pytest.approx(1.2, abs=0.06)
    spectrum = np.abs(np.fft.rfft(tone[4800:52800]))
    assert np.argmax(spectrum) == pytest.approx(440, abs=2)  # Hz, of one second
    assert np.sqrt(np.mean(tone[4800:52800] ** 2)) == pytest.approx(0.3 / np.sqrt(2), rel=0.05)


@pytest.mark.parametrize('suffix', ['.mp4', '.mov', '.mkv', '.webm'])
@pytest.mark.parametrize(('image', 'sound'), [(0.5, 0.0), (0.0, 0.5)])
def test_offset_between_image_and_sound(tmp_path, suffix, image, sound):
    times = [image + index / 10 for index in range(12)]
    source = make_video(tmp_path / 'a.mkv', times=times, sound='pcm_s16le', sound_start=sound)
    out = tmp_path / f'out{suffix}'
    copy(source, out)
    delay = 0.03  # encoders put up to 1024 samples before the sound
    assert frame_times(out)[0] - sound_times(out)[0] == pytest.approx(image - sound, abs=delay)
    assert np.diff(frame_times(out)) == pytest.approx(0.1, abs=2e-3)


def test_timestamps_of_a_transport_stream_start_at_0(tmp_path):
    source = make_video(tmp_path / 'a.ts', codec='libx264', sound='aac', options={'output_ts_offset': '1000'})
    assert frame_times(source)[0] >= 1000
    out = tmp_path / 'out.mp4'
    copy(source, out)
    before = frame_times(source)[0] - sound_times(source)[0]
    assert sound_times(out)[0] == pytest.approx(0, abs=1e-3)
    assert frame_times(out)[0] - sound_times(out)[0] == pytest.approx(before, abs=1e-3)


def test_several_streams(tmp_path):
    first = make_video(tmp_path / 'first.mkv', sound='pcm_s16le')
    second = make_video(tmp_path / 'second.mkv', sound='libopus')
    both = tmp_path / 'both.mkv'
    with av.open(str(first)) as a, av.open(str(second)) as b, av.open(str(both), 'w') as out:
        chosen = [(a, a.streams.video[0]), (a, a.streams.audio[0]), (b, b.streams.audio[0])]
        streams = [out.add_stream_from_template(stream, opaque=True) for _, stream in chosen]
        for (container, stream), target in zip(chosen, streams):
            container.seek(0)
            for packet in container.demux(stream):
                if packet.size:
                    packet.stream = target
                    out.mux(packet)
    notes = copy(both, tmp_path / 'out.webm')
    assert len(notes) == 1
    with av.open(str(tmp_path / 'out.webm')) as container:
        assert [stream.codec_context.name for stream in container.streams.audio] == ['opus', 'opus']


def test_time_base_of_the_frames_is_kept(tmp_path):
    times = [Fraction(1001 * index, 30000) for index in range(6)]
    source = make_video(tmp_path / 'a.mp4', 6, times=times, time_base=Fraction(1, 30000))
    copy(source, tmp_path / 'out.mp4')
    assert frame_times(tmp_path / 'out.mp4') == pytest.approx([float(time) for time in times], abs=1e-9)


def test_damaged_sound_leaves_the_images_whole(tmp_path):
    source = make_video(tmp_path / 'a.ts', codec='libx264', sound='aac')
    content = bytearray(source.read_bytes())
    sound = [start for start in range(0, len(content), 188) if (content[start + 1] & 31, content[start + 2]) == (1, 1)]
    assert len(sound) > 10
    for start in sound[3:8]:
        content[start + 60 : start + 188] = b'\xff' * 128
    source.write_bytes(content)
    for suffix in ('.mp4', '.webm'):
        copy(source, tmp_path / f'out{suffix}')
        assert len(frame_times(tmp_path / f'out{suffix}')) == 12


def test_sound_of_an_unknown_rate_is_named_and_left_out(tmp_path):
    source = make_video(tmp_path / 'a.mkv', 3, sound='pcm_s16le')
    content = source.read_bytes()
    element = b'\xb5\x88'  # SamplingFrequency, 8 bytes
    damaged = content.replace(element + np.array(48000, '>f8').tobytes(), element + bytes(8))
    assert damaged != content
    source.write_bytes(damaged)
    notes = copy(source, tmp_path / 'out.mp4')
    assert [note.startswith('sound stream 1 (pcm_s16le) is left out') for note in notes] == [True]
