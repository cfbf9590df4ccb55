"""Video files: open them safely, find the main stream, read packets, and detect truncation."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

import av
from av.codec.hwaccel import HWAccel
from av.stream import Disposition

from .timeline import Timeline

# Demuxers that read a single file, unlike those of playlists (hls, dash, concat), scripts and devices.
FORMATS = (
    'mov', 'matroska', 'avi', 'mpegts', 'mpeg', 'mpegvideo', 'asf', 'flv', 'ogg', 'mxf', 'nut', 'ivf', 'gif', 'apng',
    'h264', 'hevc', 'av1', 'obu', 'm4v', 'mjpeg', 'dv', 'gxf', 'rm', 'wtv', 'yuv4mpegpipe',
)  # fmt: skip
# Metadata in other encodings than UTF-8 is accepted. PyAV 19 always accepts it and has no such option.
ANY_METADATA = {'metadata_errors': 'replace'} if int(av.__version__.split('.')[0]) < 19 else {}
STREAM = 'standard input'  # name of an open file in messages
MAX_PIXELS = 2**26  # largest frame, 8192x8192; a file of a few bytes can declare any size
MAX_RATE = 300  # frames per second; some recorders declare the resolution of their clock (1000) instead


@dataclass(frozen=True)
class RawVideo:
    """Format of raw frames, which have no header.

    Attributes:
        size: (H, W) of the frames, in pixels.
        rate: Frames per second.
        pix_fmt: FFmpeg's name of the pixel format, such as ``'rgb24'``, ``'rgba'`` or ``'yuv420p'``.

    Raises:
        ValueError: If the size or rate is not positive, a frame is too large, or there is no such pixel format.
    """

    size: tuple[int, int]
    rate: Fraction
    pix_fmt: str = 'rgb24'

    def __post_init__(self) -> None:
        height, width = self.size
        if min(self.size) < 1 or height * width > MAX_PIXELS:
            raise ValueError(f'raw: frames of {width}x{height}, must have 1 to {MAX_PIXELS / 1e6:.0f} megapixels')
        if not 0 < self.rate <= MAX_RATE:
            raise ValueError(f'raw: {self.rate} frames per second, must be above 0 and at most {MAX_RATE}')
        try:
            av.VideoFormat(self.pix_fmt)
        except ValueError as error:
            raise ValueError(
                f'raw: unknown pixel format {self.pix_fmt!r:.99}. Fix: use a format of FFmpeg, such as rgb24 or yuv420p'
            ) from error

    @classmethod
    def parse(cls, text: str, pix_fmt: str = 'rgb24') -> RawVideo:
        """Parse ``'1920x1080@30'`` or ``'1920x1080@30000/1001'``: width, height and frames per second.

        Raises:
            ValueError: If the text has another form, or a value is out of range.
        """
        found = re.fullmatch(r'(\d{1,6})x(\d{1,6})@(\d{1,9}(?:\.\d{1,9}|/[1-9]\d{0,8})?)', text)
        if found is None:
            raise ValueError(f'raw={text!r:.99}, must be WIDTHxHEIGHT@FRAMES-PER-SECOND such as 1920x1080@30')
        width, height, rate = found.groups()
        return cls((int(height), int(width)), Fraction(rate), pix_fmt)


def is_stream(file) -> bool:
    """Whether this is an open file instead of a path."""
    return hasattr(file, 'read') or hasattr(file, 'write')


def open_video(source: Path | BinaryIO, raw: RawVideo | None = None, hwaccel: HWAccel | None = None):
    """Open a file with the demuxers of ``FORMATS``, which open no other file and no network address.

    Args:
        source: The file, or an open binary file.
        raw: Format of raw frames; by default the container is detected.
        hwaccel: Hardware decoder to use if it supports the codec.

    Raises:
        FileNotFoundError: If there is no such file.
        OSError: If it is not a video.
    """
    name, file = STREAM, source
    if isinstance(source, Path):
        name, file = str(source), f'file:{source}'
        if not source.exists():
            raise FileNotFoundError(f'{source}: no such file')
        if not source.is_file():  # opening a named pipe would block
            raise OSError(f'{source}: is not a regular file')
    options = {'max_pixels': str(MAX_PIXELS)}
    allowed = {'protocol_whitelist': 'file', 'format_whitelist': ','.join(FORMATS)}
    if raw is not None:
        height, width = raw.size
        allowed |= {'format_whitelist': 'rawvideo', 'video_size': f'{width}x{height}'}
        allowed |= {'pixel_format': raw.pix_fmt, 'framerate': str(raw.rate)}
    try:
        return av.open(
            file,
            'r',
            format='rawvideo' if raw is not None else None,
            options=options,
            container_options=allowed,
            hwaccel=hwaccel,
            **ANY_METADATA,
        )
    except (av.FFmpegError, ValueError) as error:
        raise OSError(f'{name}: cannot be read as a video (empty, damaged, or of an unknown format)') from error


def main_stream(container, path: Path):
    """The video stream that players choose.

    Raises:
        OSError: If there is none that can be decoded.
        ValueError: If the frames are too large.
    """
    stream = container.streams.best('video')
    if stream is None or stream.codec_context is None or Disposition.attached_pic in stream.disposition:
        raise OSError(f'{path}: cannot be read as a video (it has no video stream, or its codec is unknown)')
    pixels = stream.codec_context.width * stream.codec_context.height
    if pixels > MAX_PIXELS:
        raise ValueError(
            f'{path}: frames of {stream.codec_context.width}x{stream.codec_context.height}; '
            f'at most {MAX_PIXELS / 1e6:.0f} megapixels are supported'
        )
    return stream


def origin(container, stream, sound: bool) -> Fraction:
    """Time in the file, in seconds, at which the video stream starts, or with ``sound`` the first of all streams."""
    streams = [stream, *(container.streams.audio if sound else ())]
    return min((s.start_time * s.time_base for s in streams if s.start_time is not None), default=Fraction(0))


def packets(container, timeline: Timeline, damage: list[str] | None = None) -> Iterator:
    """Yield packets of video and sound with the timestamps of the timeline, which reader and sound share.

    Args:
        container: Open file.
        timeline: Timeline of the file.
        damage: A message is appended if the file cannot be read to its end.
    """
    streams = [*container.streams.video, *container.streams.audio]
    try:
        for packet in container.demux(*streams):
            if packet.size:
                timeline.place(packet)
                yield packet
    except av.FFmpegError as error:
        if damage is not None:
            damage.append(f'cannot be read to its end ({error.strerror})')


def cut_off(path: Path) -> str:
    """Detect a truncated file by the size that the outermost structure of MP4, AVI or Matroska declares.

    Other containers declare none. The declared number of frames or duration is not compared: most containers only
    estimate it, and edit lists hide frames.

    Returns:
        A message, empty if nothing is missing.
    """
    actual, stated = path.stat().st_size, 0
    with path.open('rb') as file:
        head = file.read(12)
        if head[:4] == b'RIFF':
            while stated < actual and (head := _at(file, stated, 8))[:4] == b'RIFF':
                stated += 8 + int.from_bytes(head[4:], 'little')
        elif head[:4] == b'\x1aE\xdf\xa3':  # EBML header, then one segment
            length, size = _vint(head[4:])
            stated = 4 + length + (size or 0)
            head = _at(file, stated, 12)
            length, size = _vint(head[4:])
            stated = stated + 4 + length + size if head[:4] == b'\x18S\x80g' and size is not None else 0
        elif head[4:8] in (b'ftyp', b'moov', b'mdat', b'free', b'skip', b'wide', b'styp'):
            while stated < actual and len(head := _at(file, stated, 16)) >= 8:
                size = int.from_bytes(head[:4], 'big')
                size = int.from_bytes(head[8:], 'big') if size == 1 else size
                if size < 8:  # 0: to the end of the file
                    break
                stated += size
    return f'is truncated: it declares {stated} bytes, but has {actual}' if stated > actual else ''


def _at(file, position: int, count: int) -> bytes:
    file.seek(position)
    return file.read(count)


def _vint(data: bytes) -> tuple[int, int | None]:
    """Length and value of a Matroska variable-size integer; the value is ``None`` if it is marked as unknown."""
    length = 9 - (data[0] if data else 0).bit_length()
    value = int.from_bytes(data[:length], 'big') & ((1 << 7 * length) - 1)
    return length, None if value == (1 << 7 * length) - 1 else value
