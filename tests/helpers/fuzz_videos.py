"""Videos that muxers write and that are odd all the same: sizes, times, codecs and containers of every kind."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
from fuzz import one_of
from videos import make_video

CONTAINERS = {'mp4': ('mpeg4', 'libx264', 'mjpeg', 'libvpx-vp9'), 'mov': ('mpeg4', 'png', 'prores_ks', 'qtrle'),
              'mkv': ('mpeg4', 'libvpx', 'ffv1', 'mjpeg', 'rawvideo'), 'webm': ('libvpx', 'libvpx-vp9'),
              'avi': ('mpeg4', 'mjpeg', 'rawvideo', 'huffyuv'), 'ts': ('mpeg2video', 'libx264', 'mpeg4'),
              'flv': ('flv', 'libx264'), 'nut': ('mpeg4', 'ffv1', 'rawvideo'), 'mpg': ('mpeg2video', 'mpeg1video'),
              'wmv': ('wmv2', 'msmpeg4'), 'gif': ('gif',), 'apng': ('apng',), 'mxf': ('mpeg2video',),
              'y4m': ('rawvideo',),
              'ivf': ('libvpx',), 'ogv': ('libtheora',), '3gp': ('mpeg4',)}  # fmt: skip
PIXELS = {'gif': 'rgb8', 'apng': 'rgba', 'png': 'rgba', 'prores_ks': 'yuv422p10le', 'qtrle': 'argb',
'mjpeg': 'yuvj420p',
          'huffyuv': 'yuv422p'}  # fmt: skip
JUMPS = (0, 0.04, 0.04, 1e-3, 1, 11, 59, 3601, 5e4, 1e6, -0.04, -20)  # seconds


def odd_video(path, rng: np.random.Generator) -> str | None:
    """Write a video under ``path`` with a suffix of its container; ``None`` where the muxer refuses what is asked."""
    suffix = one_of(rng, list(CONTAINERS))
    codec = one_of(rng, CONTAINERS[suffix])
    path = path.with_suffix(f'.{suffix}')
    height, width = (int(one_of(rng, (2, 16, 18, 34, 64, 96))) for _ in range(2))
    count = int(one_of(rng, (1, 2, 5, 12)))
    frames = [rng.integers(0, 256, (height, width, 3), np.uint8) for _ in range(count)]
    options = dict(codec=codec, pix_fmt=PIXELS.get(codec, 'yuv420p'), rate=int(one_of(rng, (1, 10, 25, 120, 1000))))
    if rng.integers(2):
        steps = [float(one_of(rng, JUMPS)) for _ in frames]
        options['times'] = list(np.cumsum(steps) - steps[0] + float(one_of(rng, (0, 0, 0, 5, 1e5, -3))))
        options['time_base'] = one_of(rng, (Fraction(1, 1000), Fraction(1, 90000), Fraction(1, 3), Fraction(1)))
    if rng.integers(4) == 0:
        options['aspect'] = one_of(rng, (Fraction(16, 11), Fraction(1, 255), Fraction(255), Fraction(3, 2)))
    if rng.integers(4) == 0:
        options['color'] = tuple(
            int(one_of(rng, choices)) for choices in ((0, 1, 5, 9), (1, 5, 9), (1, 16, 18), (1, 2))
        )
    if suffix in ('mp4', 'mov', 'mkv') and rng.integers(3) == 0:
        options.update(sound='aac', sound_start=float(one_of(rng, (0, 0.5, 30))), sound_seconds=float(rng.random()))
    if suffix in ('mp4', 'mov') and rng.integers(3) == 0:
        options['matrix'] = tuple(int(one_of(rng, (-1, 0, 1, 2**14))) for _ in range(4))
    try:
        make_video(path, frames, **options)
    except (OSError, ValueError, KeyError, OverflowError, av.FFmpegError, av.codec.codec.UnknownCodecError):
        return None
    _spoil(path, rng)
    return path


def _spoil(path, rng: np.random.Generator) -> None:
    """Leave half of the files as they are; cut off, change or repeat parts of the others."""
    kind = int(rng.integers(8))
    if kind >= 4:
        return
    data = bytearray(path.read_bytes())
    if not data:
        return
    start, stop = sorted(int(place) for place in rng.integers(0, len(data), 2))
    if kind == 0:
        del data[stop:]
    elif kind == 1:
        del data[start:stop]
    elif kind == 2:
        data[start:start] = data[start:stop]
    else:
        for position in rng.integers(0, len(data), int(rng.integers(1, 9))):
            data[position] = int(rng.integers(256))
    path.write_bytes(data)
