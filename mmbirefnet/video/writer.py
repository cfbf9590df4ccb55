"""Write frames to a video file, with their timestamps and the sound of another file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

import av
import numpy as np
from av.codec.context import Flags
from av.video.reformatter import ColorRange
from PIL import Image

from mmbirefnet.fileio.atomic import replacing

from .reader import EXACT, ColorTags
from .sound import Sound


@dataclass(frozen=True)
class Encoding:
    """An encoder with its pixel format and options."""

    codec: str
    pix_fmt: str
    options: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Container:
    """A file format.

    Attributes:
        format: FFmpeg's name of the muxer.
        opaque: Encoding of RGB.
        transparent: Encoding of RGBA; ``None`` if the format does not store alpha.
        is_video: Whether it stores sound and color tags; animated images do not.
        pixel_aspect: Whether PyAV can write a pixel aspect ratio to it; otherwise frames are scaled to square pixels.
        options: Options of the muxer.
    """

    format: str
    opaque: Encoding
    transparent: Encoding | None = None
    is_video: bool = True
    pixel_aspect: bool = True
    options: dict[str, str] = field(default_factory=dict)


_H264 = Encoding('libx264', 'yuv420p', {'crf': '18'})
_PRORES = Encoding('prores_ks', 'yuva444p10le', {'profile': '4444', 'vendor': 'apl0'})
_VP9 = {'crf': '24', 'b': '0', 'row-mt': '1', 'cpu-used': '4'}
_WEBP = Encoding('libwebp_anim', 'bgra', {'quality': '90'})
_GIF = Encoding('gif', 'pal8')
CONTAINERS = {
    '.mp4': Container('mp4', _H264),
    '.mkv': Container('matroska', _H264),
    '.mov': Container('mov', _H264, _PRORES),
    '.webm': Container(
        'webm',
        Encoding('libvpx-vp9', 'yuv420p', _VP9),
        Encoding('libvpx-vp9', 'yuva420p', _VP9 | {'auto-alt-ref': '0'}),
        pixel_aspect=False,
    ),
    '.nut': Container('nut', Encoding('rawvideo', 'rgb24'), Encoding('rawvideo', 'rgba'), pixel_aspect=False),
    '.gif': Container('gif', _GIF, _GIF, False, False, {'loop': '0'}),
    '.webp': Container('webp', _WEBP, _WEBP, False, False, {'loop': '0'}),
    '.apng': Container('apng', Encoding('apng', 'rgb24'), Encoding('apng', 'rgba'), False, False, {'plays': '0'}),
}
STREAMED = ('nut', 'mkv', 'webm', 'raw')  # formats that can be written to a pipe; raw has no container
# swscale's number of each matrix that it supports. Others are written as BT.709.
_SWS_MATRICES = {1: 1, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9}


class VideoWriter:
    """Writes frames to an open file; use :func:`write_video` to create one.

    H.264 (.mp4, .mkv, .mov), VP9 (.webm), with alpha ProRes 4444 (.mov) or VP9 (.webm), uncompressed frames (.nut), and
    animated GIF, WebP and PNG.

    Attributes:
        notes: Sound that is re-encoded or left out.
    """

    def __init__(
        self,
        file: BinaryIO,
        path: Path,
        size: tuple[int, int],
        rate: Fraction,
        time_base: Fraction,
        alpha: bool,
        color: ColorTags,
        pixel_aspect: Fraction,
        sound: Path | None,
    ) -> None:
        self.notes: list[str] = []
        self._file, self._path, self._sound = file, path, None
        suffix = path.suffix.lower()
        self._kind = kind = CONTAINERS[suffix]
        encoding = kind.transparent if alpha else kind.opaque
        height, width = size
        if not kind.pixel_aspect:
            width, pixel_aspect = max(1, round(width * pixel_aspect)), Fraction(1)
        if not kind.is_video:
            time_base, color = Fraction(1, 100 if encoding.codec == 'gif' else 1000), ColorTags()
        if color.matrix not in _SWS_MATRICES:
            color = ColorTags(primaries=color.primaries, transfer=color.transfer, full_range=color.full_range)
        self._size, self._channels, self._color = size, 3 + alpha, color
        self._range = ColorRange.JPEG if color.full_range and encoding.codec != 'prores_ks' else ColorRange.MPEG
        # H.264 in 4:2:0 needs even sides.
        self._padding = (height % 2, width % 2) if encoding.codec == 'libx264' else (0, 0)
        self._width, self._height = width, height
        self._time_base, self._last = time_base, -1
        self._output = av.open(file, 'w', format=kind.format, options=kind.options)
        self._stream = self._add_stream(encoding, rate, pixel_aspect)
        if sound is not None and kind.is_video:
            self._sound = Sound(sound, self._output, suffix)
            self.notes = self._sound.notes

    def _add_stream(self, encoding: Encoding, rate: Fraction, pixel_aspect: Fraction):
        stream = self._output.add_stream(encoding.codec, rate=rate, options=encoding.options)
        context = stream.codec_context
        context.width, context.height = self._width + self._padding[1], self._height + self._padding[0]
        context.pix_fmt, context.time_base = encoding.pix_fmt, self._time_base
        context.thread_type = 'AUTO'
        context.flags |= Flags.frame_duration
        if self._kind.is_video:
            context.sample_aspect_ratio = pixel_aspect
            context.colorspace, context.color_range = self._color.matrix, self._range
            context.color_primaries, context.color_trc = self._color.primaries, self._color.transfer
        return stream

    def write(self, pixels: np.ndarray, time: int, duration: int, time_base: Fraction) -> None:
        """Add a frame.

        Args:
            pixels: uint8 ``(H, W, 3)`` RGB, or ``(H, W, 4)`` RGBA with ``alpha``.
            time: Start in units of ``time_base``, later than that of the previous frame.
            duration: Duration in the same units.
            time_base: Unit in seconds.

        Raises:
            ValueError: If the size or number of channels differs from that of the file.
            OSError: If the file cannot be written.
        """
        if pixels.shape != (*self._size, self._channels):
            raise ValueError(
                f'{self._path}: frame of shape {pixels.shape}, must be {(*self._size, self._channels)} like the first'
            )
        with self._named_errors():
            if self._sound is not None:
                self._sound.write_until(time * time_base)
            frame = self._encoded_form(pixels)
            frame.pts = self._last = max(self._last + 1, round(time * time_base / self._time_base))
            frame.time_base = self._time_base
            frame.duration = max(1, round(duration * time_base / self._time_base))
            self._output.mux(self._stream.encode(frame))

    def _encoded_form(self, pixels: np.ndarray):
        pix_fmt = self._stream.codec_context.pix_fmt
        if (self._width, self._height) != self._size[::-1]:
            image = Image.fromarray(pixels).resize((self._width, self._height), Image.Resampling.LANCZOS)
            pixels = np.asarray(image)
        if pix_fmt == 'pal8':
            return av.VideoFrame.from_ndarray(_palette_form(pixels), 'pal8')
        if any(self._padding):
            pixels = np.pad(pixels, ((0, self._padding[0]), (0, self._padding[1]), (0, 0)), mode='edge')
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), 'rgba' if self._channels == 4 else 'rgb24')
        if not self._kind.is_video:
            return frame.reformat(format=pix_fmt, interpolation=EXACT)
        frame = frame.reformat(
            format=pix_fmt,
            dst_colorspace=_SWS_MATRICES[self._color.matrix],
            dst_color_range=self._range,
            interpolation=EXACT,
        )
        frame.colorspace, frame.color_range = self._color.matrix, self._range
        frame.color_primaries, frame.color_trc = self._color.primaries, self._color.transfer
        return frame

    def finish(self) -> None:
        """Write the delayed frames of the encoder, the rest of the sound, and the index.

        Raises:
            OSError: If the file cannot be written.
        """
        with self._named_errors():
            self._output.mux(self._stream.encode(None))
            if self._sound is not None:
                self._sound.write_until()
            self._output.close()
            self._file.flush()

    def close(self) -> None:
        """Close the files; without :meth:`finish` the output is unusable."""
        # Close the container before its file, even after errors: PyAV 17 crashes if it is collected later.
        with suppress(av.FFmpegError, OSError):
            self._output.close()
        if self._sound is not None:
            self._sound.close()

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except (av.FFmpegError, OSError) as error:
            raise OSError(f'{self._path}: cannot be written ({error.strerror or error})') from error


@contextmanager
def write_video(
    path: str | os.PathLike,
    size: tuple[int, int],
    rate: Fraction,
    time_base: Fraction,
    *,
    alpha: bool = False,
    color: ColorTags | None = None,
    pixel_aspect: Fraction = Fraction(1),
    sound: Path | None = None,
    overwrite: bool = True,
) -> Iterator[VideoWriter]:
    """Yield a writer of frames. The file appears, complete, only if the block ends without an error.

    Args:
        path: File to write; its suffix is a key of ``CONTAINERS``.
        size: (H, W) of the frames in pixels.
        rate: Frames per second, a hint for encoders and players.
        time_base: Unit of timestamps in the file, in seconds.
        alpha: Whether frames are RGBA.
        color: Color tags of the file, whose matrix and range convert RGB to YUV. BT.709 by default.
        pixel_aspect: Width of a pixel divided by its height.
        sound: File whose sound is copied, if it has any; its timestamps must match those of the frames.
        overwrite: Whether to replace a file that exists or appears meanwhile.

    Raises:
        FileExistsError: If the file exists and may not be replaced.
        ValueError: If the format is unknown or does not store alpha.
        OSError: If the file cannot be written, for example because the disk is full.
    """
    path = Path(path)
    check_container(path, alpha)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path, overwrite) as temporary:
        file = temporary.open('wb')
        try:
            with write_stream(
                file, path, size, rate, time_base, alpha=alpha, color=color, pixel_aspect=pixel_aspect, sound=sound
            ) as writer:
                yield writer
            file.close()
        except OSError as error:
            raise (
                error if str(error).startswith(str(path)) else OSError(f'{path}: cannot be written ({error})')
            ) from error
        finally:
            with suppress(OSError):
                file.close()


@contextmanager
def write_stream(
    file: BinaryIO,
    path: Path,
    size: tuple[int, int],
    rate: Fraction,
    time_base: Fraction,
    *,
    alpha: bool = False,
    color: ColorTags | None = None,
    pixel_aspect: Fraction = Fraction(1),
    sound: Path | None = None,
) -> Iterator[VideoWriter | RawWriter]:
    """Yield a writer of frames to an open binary file, which is not closed. Errors are those of :func:`write_video`.

    Args:
        file: Open binary file; for ``STREAMED`` formats it may be a pipe.
        path: Name of the file in messages; its suffix is a key of ``CONTAINERS``, or ``'.raw'`` for raw frames.
        size, rate, time_base, alpha, color, pixel_aspect, sound: As for :func:`write_video`.
    """
    if path.suffix == '.raw':
        yield RawWriter(file, path, size)
        return
    try:
        writer = VideoWriter(file, path, size, rate, time_base, alpha, color or ColorTags(), pixel_aspect, sound)
    except av.FFmpegError as error:
        raise OSError(f'{path}: cannot be written ({error.strerror})') from error
    try:
        yield writer
        writer.finish()
    finally:
        writer.close()


class RawWriter:
    """Writes raw frames row by row, without a header, timestamps and sound.

    Attributes:
        notes: Empty.
    """

    def __init__(self, file: BinaryIO, path: Path, size: tuple[int, int]) -> None:
        self.notes: list[str] = []
        self._file, self._path, self._size = file, path, size

    def write(self, pixels: np.ndarray, time: int, duration: int, time_base: Fraction) -> None:
        """Add a frame.

        Args:
            pixels: uint8 ``(H, W)`` gray, ``(H, W, 3)`` RGB or ``(H, W, 4)`` RGBA.
            time, duration, time_base: Ignored.

        Raises:
            OSError: If the file cannot be written.
        """
        try:
            self._file.write(np.ascontiguousarray(pixels).tobytes())
            self._file.flush()
        except OSError as error:
            raise OSError(f'{self._path}: cannot be written ({error.strerror or error})') from error


def check_container(path: Path, alpha: bool) -> None:
    """Check that a file of this format can be written.

    Raises:
        ValueError: If the suffix is not in ``CONTAINERS``, the format does not store alpha, or PyAV lacks the encoder.
    """
    suffix = path.suffix.lower()
    if suffix not in CONTAINERS:
        raise ValueError(
            f'{path}: cannot write {suffix or "a file without suffix"}. Fix: use one of {", ".join(CONTAINERS)}'
        )
    encoding = CONTAINERS[suffix].transparent if alpha else CONTAINERS[suffix].opaque
    if encoding is None:
        *others, last = [name for name, kind in CONTAINERS.items() if kind.transparent]
        raise ValueError(f'{path}: {suffix} does not store alpha. Fix: use {", ".join(others)} or {last}')
    if encoding.codec not in av.codecs_available:
        raise ValueError(f'{path}: this build of PyAV has no encoder {encoding.codec}. Fix: pip install av')


def _palette_form(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Palette indices ``(H, W)`` and colors ``(256, 4)`` of PyAV's pal8, with one bit of alpha, as in GIF."""
    image = Image.fromarray(pixels[..., :3]).quantize(255)
    indices = np.array(image)
    palette = np.zeros((256, 4), np.uint8)
    colors = np.array(image.getpalette('RGB'), np.uint8).reshape(-1, 3)[:255]
    palette[: len(colors), 1:] = colors
    palette[:255, 0] = 255
    if pixels.shape[2] == 4:
        indices[pixels[..., 3] < 128] = 255
    return indices, palette
