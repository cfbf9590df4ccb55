"""Read the frames of a video file one at a time, as a player shows them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

import av
import numpy as np
from av.codec.hwaccel import HWAccel, HWDeviceType, hwdevices_available
from av.video.reformatter import ColorPrimaries, ColorRange, ColorTrc, Interpolation

from mmbirefnet.imaging.read import LoadedImage
from mmbirefnet.imaging.urls import has_scheme

from .container import (
    MAX_PIXELS,
    MAX_RATE,
    STREAM,
    RawVideo,
    cut_off,
    is_stream,
    main_stream,
    open_video,
    origin,
    packets,
)
from .timeline import MAX_GAP, Timeline

SLOWEST_RATE = Fraction(1, 1001)  # frames per second; lowest rate that is measured
UNSPECIFIED = 2  # code point of an unspecified matrix, primaries or transfer (ITU-T H.273)
BT709, SMPTE170M, BT2020_NCL, BT2020_CL = 1, 6, 9, 10
HDR_TRANSFERS = {ColorTrc.SMPTE2084: 'PQ', ColorTrc.ARIB_STD_B67: 'HLG'}
# swscale's default interpolates chroma coarsely and rounds down. PyAV 17 has no names for the last two flags.
EXACT = int(Interpolation.BICUBIC) | 0x2000 | 0x40000  # SWS_FULL_CHR_H_INT, SWS_ACCURATE_RND


@dataclass(frozen=True)
class ColorTags:
    """Color description of a video, in the code points of ITU-T H.273.

    Attributes:
        matrix: Matrix between RGB and YUV.
        primaries: Primaries of RGB.
        transfer: Transfer characteristic.
        full_range: Whether luma uses the full range instead of 16 to 235 (in 8 bits).
    """

    matrix: int = BT709
    primaries: int = BT709
    transfer: int = BT709
    full_range: bool = False


@dataclass
class Frame:
    """A frame with its time.

    Attributes:
        image: The frame, upright.
        time: Start in units of the reader's ``time_base``, 0 or more.
        duration: Duration in the same units.
    """

    image: LoadedImage
    time: int
    duration: int


class VideoReader:
    """Reads the frames of a file's main video stream with their timestamps. Only a few are in memory at once.

    Frames are rotated upright. YUV is converted with the tagged matrix and range. Without a tag, as in players, the
    matrix is BT.709 for frames at least 1280 pixels wide or more than 576 high, and BT.601 for smaller ones. Only the
    file itself is opened: playlists and network addresses are rejected.

    Args:
        source: The file, or an open binary file such as a pipe, which is read once from its current position.
        tone_map: Convert HDR and BT.2020 to BT.709 (perceptual intent of libswscale) instead of rejecting it.
        sound: Whether time 0 is the start of image and sound, whichever is first, instead of that of the image.
        raw: Format of the frames if the source contains raw frames.
        hwaccel: FFmpeg's name of a hardware decoder, such as ``'cuda'`` or ``'vaapi'``. If it cannot be used, frames
            are decoded in software, and a note gives the reason.

    Attributes:
        size: (H, W) of the upright frames, in pixels.
        pixel_aspect: Width of an upright pixel divided by its height.
        rate: Frames per second as declared, or measured from the first frames if the declared rate is implausible.
        time_base: Unit of times and durations, in seconds.
        color: Color tags of the returned frames.
        expected_frames: The container's estimate of the number of frames, for a progress bar; 0 if it has none.
        damage: Defects of the file; complete after the last frame.
        notes: Changes made while reading; complete after the last frame.

    Raises:
        FileNotFoundError: If there is no such file.
        OSError: If it is not a video that can be read, or not a single frame can be decoded.
        ValueError: If it is a URL, it is HDR and ``tone_map`` is false, frames have more than ``MAX_PIXELS``, or FFmpeg
            has no hardware decoder of this name.
    """

    def __init__(
        self,
        source: str | os.PathLike | BinaryIO,
        *,
        tone_map: bool = False,
        sound: bool = True,
        raw: RawVideo | None = None,
        hwaccel: str | None = None,
    ) -> None:
        if not is_stream(source):
            if has_scheme(source):
                raise ValueError(f'{source}: a URL, but only files are read. Fix: download the video first')
            source = Path(source)
        self.path = source if isinstance(source, Path) else Path(STREAM)
        self.damage: list[str] = []
        self.notes: list[str] = []
        self._source, self._raw = source, raw
        accelerator, problem = _accelerator(hwaccel)
        self._container = open_video(source, raw, accelerator)
        try:
            self._stream = main_stream(self._container, self.path)
            if problem is None and accelerator is not None and not self._stream.codec_context.is_hwaccel:
                problem = f'it has no decoder of {self._stream.codec_context.name}'
            if problem is not None:
                self.notes.append(f'--hwaccel {hwaccel} is not used: {problem}; frames are decoded in software')
            self._set_up(tone_map, sound)
        except BaseException:
            self.close()
            raise

    def _set_up(self, tone_map: bool, sound: bool) -> None:
        stream = self._stream
        self.time_base = stream.time_base
        self.rate = self._find_rate()
        self._step = max(1, round(1 / self.rate / self.time_base))
        self._timeline = Timeline(origin(self._container, stream, sound))
        self._tone_map, self._graph, self._graph_key = tone_map, None, None
        self._bad_packets = self._bad_frames = 0
        self._decoder = _decoder(stream)
        self._decoded = self._decode()
        first = next(self._decoded, None)
        if first is None:
            reason = f'; {self.damage[0]}' if self.damage else ''
            raise OSError(f'{self.path}: not a single frame can be decoded{reason}')
        self._first = first
        self._coded = first.width, first.height
        self.color = self._color_of(first)
        self._check_hdr(first)
        self._turn = _orientation(first)
        self.size = self._coded if self._turn[0] else self._coded[::-1]
        aspect = stream.sample_aspect_ratio or Fraction(1)
        aspect = aspect if Fraction(1, 16) <= aspect <= 16 else Fraction(1)
        self.pixel_aspect = 1 / aspect if self._turn[0] else aspect
        declared = stream.frames
        if declared <= 0 and self._container.duration:
            declared = round(Fraction(self._container.duration, av.time_base) * self.rate)
        self.expected_frames = max(0, declared)

    def __iter__(self) -> Iterator[Frame]:
        """Yield the frames in order of their timestamps.

        Raises:
            OSError: If a frame's colors cannot be converted.
        """
        last, next_time = -1, 0
        frame = self._first
        while frame is not None:
            stamp = frame.pts if frame.pts is not None else frame.dts
            last = max(last + 1, next_time if stamp is None else stamp)
            next_time = last + (self._step if self._rate_is_measured else self._duration(frame))
            yield Frame(self._image(frame), last, next_time - last)
            frame = next(self._decoded, None)
        if self._bad_packets or self._bad_frames:
            self.damage.append(f'{self._bad_frames} frames are damaged, {self._bad_packets} cannot be decoded')
        if isinstance(self._source, Path) and self._raw is None and (reason := cut_off(self.path)):
            self.damage.insert(0, reason)
        declared, end = (self._container.duration or 0) / av.time_base, float(self._timeline.end or 0)
        if self._timeline.closed:
            self.notes.append(f'{self._timeline.closed} gaps or jumps in the timestamps were closed')
        elif declared > end + 0.5:
            self.notes.append(f'its header declares {declared:.2f} s, but image and sound end at {end:.2f} s')

    def _duration(self, frame) -> int:
        """Duration of a frame as declared, unless it is implausible."""
        return frame.duration if 0 < frame.duration * self.time_base <= MAX_GAP else self._step

    def _decode(self) -> Iterator:
        """Yield decoded frames; count damage after the first good one: recordings may start between key frames."""
        shown = False
        for packet in self._packets():
            try:
                frames = self._decoder.decode(packet)
            except MemoryError:
                raise
            except av.FFmpegError:
                self._bad_packets += shown
                continue
            for frame in frames:
                self._bad_frames += shown and frame.is_corrupt
                shown = shown or not frame.is_corrupt
                yield frame

    def _packets(self) -> Iterator:
        for packet in packets(self._container, self._timeline, self.damage):
            if packet.stream_index == self._stream.index:
                yield packet
        yield None  # flushes the decoder

    def _find_rate(self) -> Fraction:
        self._rate_is_measured = False
        for rate in (self._stream.average_rate, self._stream.guessed_rate):
            if rate and 0 < rate <= MAX_RATE:
                return rate
        if not isinstance(self._source, Path):  # a pipe cannot be read twice
            return Fraction(25)
        self._rate_is_measured = True
        with open_video(self._source, self._raw) as container:
            stamps = []
            with contextlib.suppress(av.FFmpegError):  # a damaged file: reading its frames reports it
                for packet in container.demux(container.streams[self._stream.index]):
                    if packet.pts is not None:
                        stamps.append(packet.pts)
                    if len(stamps) == 100:
                        break
        span = (max(stamps) - min(stamps)) * self.time_base if stamps else 0
        if not span:
            return Fraction(25)
        return max(Fraction((len(stamps) - 1) / span).limit_denominator(1001), SLOWEST_RATE)

    def _color_of(self, frame) -> ColorTags:
        if frame.format.is_rgb or frame.format.has_palette:
            return ColorTags()
        matrix = frame.colorspace
        if matrix in (0, UNSPECIFIED, 3):
            matrix = BT709 if frame.width >= 1280 or frame.height > 576 else SMPTE170M
        full = frame.color_range == ColorRange.JPEG or frame.format.name.startswith('yuvj')
        return ColorTags(matrix, frame.color_primaries, frame.color_trc, full)

    def _check_hdr(self, frame) -> None:
        names = [HDR_TRANSFERS[frame.color_trc]] if frame.color_trc in HDR_TRANSFERS else []
        if frame.color_primaries == ColorPrimaries.BT2020 or frame.colorspace in (BT2020_NCL, BT2020_CL):
            names.append('BT.2020')
        if not names:
            self._tone_map = False
        elif not self._tone_map:
            raise ValueError(
                f'{self.path}: is HDR or wide-gamut video ({", ".join(names)}), but the output is SDR. '
                'Fix: --tone-map (tone_map=True) converts it to BT.709, or convert it first'
            )
        else:
            self.color = ColorTags()

    def _image(self, frame) -> LoadedImage:
        size = frame.width, frame.height
        if size != self._coded and not any('size' in note for note in self.notes):
            self.notes.append(f'the size of the frames changes; all are scaled to {self._coded[0]}x{self._coded[1]}')
        has_alpha = any(component.is_alpha for component in frame.format.components) or frame.format.has_palette
        target = 'rgba' if has_alpha else 'rgb24'
        try:
            if self._tone_map:
                frame = self._tone_mapped(frame)
            elif not frame.format.is_rgb:
                frame.colorspace = self.color.matrix
                frame.color_range = ColorRange.JPEG if self.color.full_range else ColorRange.MPEG
            pixels = frame.reformat(*self._coded, format=target, interpolation=EXACT).to_ndarray()
        except av.FFmpegError as error:
            raise OSError(f'{self.path}: colors of {frame.format.name} cannot be converted ({error})') from error
        pixels = _upright(pixels, self._turn)
        alpha = np.ascontiguousarray(pixels[..., 3]) if has_alpha and pixels[..., 3].min() < 255 else None
        return LoadedImage(np.ascontiguousarray(pixels[..., :3]), alpha, name=f'{self.path}, frame')

    def _tone_mapped(self, frame):
        if (frame.width, frame.height) != self._coded:  # a new graph takes seconds to compute its color table
            frame = frame.reformat(*self._coded, interpolation=EXACT)
        key = frame.width, frame.height, frame.format.name
        if key != self._graph_key:
            graph = av.filter.Graph()
            source = graph.add(
                'buffer',
                f'video_size={frame.width}x{frame.height}:pix_fmt={frame.format.name}:time_base={self.time_base}'
                f':colorspace={frame.colorspace}:range={frame.color_range}',
            )
            scale = graph.add(
                'scale', 'intent=perceptual:out_transfer=bt709:out_primaries=bt709:flags=bicubic+accurate_rnd'
            )
            graph.link_nodes(source, scale, graph.add('format', 'rgb24'), graph.add('buffersink')).configure()
            self._graph, self._graph_key = graph, key
        self._graph.push(frame)
        return self._graph.pull()

    @property
    def has_sound(self) -> bool:
        """Whether the file has sound."""
        return bool(self._container.streams.audio)

    def close(self) -> None:
        self._container.close()

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, *_) -> None:
        self.close()


def _accelerator(name: str | None) -> tuple[HWAccel | None, str | None]:
    """Find a hardware decoder, or the reason why this machine has none.

    Raises:
        ValueError: If FFmpeg has none of this name.
    """
    if name is None:
        return None, None
    names = [kind.name for kind in HWDeviceType if kind.name != 'none']
    if name not in names:
        raise ValueError(f'hwaccel={name!r:.99}, must be one of {", ".join(names)}')
    if name not in hwdevices_available():
        return None, f'this build of PyAV supports only {", ".join(hwdevices_available()) or "software decoding"}'
    accelerator = HWAccel(name, allow_software_fallback=True)
    try:
        accelerator.create(av.Codec('h264', 'r'))  # opens the device
    except (av.FFmpegError, NotImplementedError, RuntimeError) as error:
        return None, f'its device cannot be opened ({error})'
    return accelerator, None


def _decoder(stream):
    """The decoder of a stream: libvpx for VP8 and VP9 with alpha, since FFmpeg's own decoders drop alpha."""
    context = stream.codec_context
    if stream.metadata.get('alpha_mode') == '1' and context.name in ('vp8', 'vp9'):
        name = {'vp8': 'libvpx', 'vp9': 'libvpx-vp9'}[context.name]
        if name in av.codecs_available:
            return av.CodecContext.create(name, 'r')
    context.thread_type = 'AUTO'
    context.options = {'max_pixels': str(MAX_PIXELS)}
    return context


def _orientation(frame) -> tuple[bool, bool, bool]:
    """Whether the display matrix asks to transpose, to mirror left and right, and to mirror top and bottom."""
    matrix = frame.side_data.get('DISPLAYMATRIX')
    if matrix is None:
        return False, False, False
    # x' = a x + c y, y' = b x + d y
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5]
    if abs(int(a)) >= abs(int(b)):
        return False, bool(a < 0), bool(d < 0)
    return True, bool(c < 0), bool(b < 0)


def _upright(pixels: np.ndarray, turn: tuple[bool, bool, bool]) -> np.ndarray:
    transpose, mirror, flip = turn
    pixels = pixels.swapaxes(0, 1) if transpose else pixels
    pixels = pixels[:, ::-1] if mirror else pixels
    return pixels[::-1] if flip else pixels
