"""Small videos made with PyAV, for tests of what reads videos."""

import struct
from fractions import Fraction

import av
import numpy as np

RATE, SIZE = 10, (96, 128)
BLUE, RED = (20, 30, 200), (220, 20, 30)


def red_square_frame(index, size=SIZE):
    """A red square on blue that moves to the right by 4 pixels a frame, uint8 ``(H, W, 3)``."""
    frame = np.full((*size, 3), BLUE, np.uint8)
    frame[32:64, 16 + 4 * index : 48 + 4 * index] = RED
    return frame


def make_video(
    path,
    frames=12,
    *,
    times=None,
    time_base=Fraction(1, 1000),
    codec='mpeg4',
    pix_fmt='yuv420p',
    rate=RATE,
    sound=None,
    sound_start=0.0,
    sound_seconds=1.2,
    color=None,
    aspect=None,
    matrix=None,
    format=None,
    options=None,
    codec_options=None,
    key_frames=12,
):
    """Write a video.

    Args:
        path: The file.
        frames: Number of frames with a red square (0 for sound alone), or the frames: RGB or RGBA arrays or
            ``av.VideoFrame``.
        times: Of the frames in seconds, by default a frame every 1 / ``rate``.
        time_base: Of the encoder, with ``times``.
        codec, pix_fmt, codec_options, key_frames: Of the images.
        rate: Frames per second that are declared.
        sound: Encoder of a tone of 440 Hz, ``None`` for silence.
        sound_start, sound_seconds: In seconds.
        color: (matrix, primaries, transfer, range) of the tags.
        aspect: Of the pixels.
        matrix: (a, b, c, d) of the display matrix of an MP4: x' = a x + c y, y' = b x + d y.
        format, options: Of the container.
    """
    frames = [red_square_frame(index) for index in range(frames)] if isinstance(frames, int) else list(frames)
    frames = [frame if isinstance(frame, av.VideoFrame) else _frame(frame) for frame in frames]
    base = time_base if times is not None else Fraction(1, rate)
    times = [index / rate for index in range(len(frames))] if times is None else times
    with av.open(str(path), 'w', format=format, options=options or {}) as container:
        if not frames:
            for packet in _tone(container, sound, sound_start, sound_seconds):
                container.mux(packet)
            return path
        video = container.add_stream(codec, rate=rate, options=codec_options or {})
        context = video.codec_context
        context.width, context.height, context.pix_fmt = frames[0].width, frames[0].height, pix_fmt
        context.time_base, context.gop_size, context.thread_count = base, key_frames, 1
        if codec == 'mpeg4':
            context.qmin = context.qmax = 2
        if color is not None:
            context.colorspace, context.color_primaries, context.color_trc, context.color_range = color
        if aspect is not None:
            context.sample_aspect_ratio = aspect
        packets = []
        if sound is not None:
            packets = _tone(container, sound, sound_start, sound_seconds)
        for frame, time in zip(frames, times):
            frame.pts, frame.time_base = round(time / base), base
            while packets and packets[0].pts * packets[0].time_base <= time:
                container.mux(packets.pop(0))
            if frame.format.is_rgb:
                coefficients = {1: 1, 9: 9}.get(color[0] if color else 6, 5)
                frame = frame.reformat(
                    format=pix_fmt, dst_colorspace=coefficients, dst_color_range=color[3] if color else 1
                )
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        for packet in packets:
            container.mux(packet)
    if matrix is not None:
        _set_matrix(path, *matrix)
    return path


def _set_matrix(path, a, b, c, d):
    """In the track header box of version 0 (ISO/IEC 14496-12, 8.3.2), 16.16 fixed point."""
    content = bytearray(path.read_bytes())
    start = content.index(b'tkhd') + 4 + 4 + 20 + 8 + 8
    content[start : start + 20] = struct.pack('>5i', a << 16, b << 16, 0, c << 16, d << 16)
    path.write_bytes(content)


def _frame(pixels):
    return av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), 'rgb24' if pixels.shape[2] == 3 else 'rgba')


def _tone(container, encoder, start, seconds):
    stream = container.add_stream(encoder, rate=48000, layout='mono')
    stream.codec_context.time_base = Fraction(1, 48000)
    stream.codec_context.open(strict=False)
    size = stream.codec_context.frame_size or 1024
    count = round(48000 * seconds) // size * size
    tone = (0.3 * np.sin(2 * np.pi * 440 / 48000 * np.arange(count))).astype(np.float32)
    resampler = av.AudioResampler(stream.codec_context.format, stream.codec_context.layout, 48000)
    packets = []
    for position in range(0, count, size):
        frame = av.AudioFrame.from_ndarray(tone[None, position : position + size], 'flt', 'mono')
        frame.sample_rate, frame.time_base = 48000, Fraction(1, 48000)
        frame.pts = position + round(48000 * start)
        for converted in resampler.resample(frame):
            packets += stream.encode(converted)
    return packets + stream.encode(None)


def constant_frame(values, size, pix_fmt='yuv420p'):
    """A frame of one value a plane; 16-bit samples for formats of more than 8 bits."""
    frame = av.VideoFrame(size[1], size[0], pix_fmt)
    kind = np.uint16 if '10' in pix_fmt else np.uint8
    for plane, value in zip(frame.planes, values):
        plane.update(np.full(plane.buffer_size // kind().itemsize, value, kind).tobytes())
    return frame


def frame_times(path):
    """Times of a file's frames in seconds."""
    with av.open(f'file:{path}') as container:
        return [float(frame.pts * frame.time_base) for frame in container.decode(video=0)]


def sound_times(path):
    """Time of a file's first packet of sound and the end of its last one, in seconds."""
    with av.open(f'file:{path}') as container:
        packets = [packet for packet in container.demux(audio=0) if packet.size]
    return float(packets[0].pts * packets[0].time_base), float(
        (packets[-1].pts + (packets[-1].duration or 0)) * packets[-1].time_base
    )
