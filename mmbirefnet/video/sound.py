"""Copy the sound of one file to another, or re-encode it if the container does not support its codec."""

from __future__ import annotations

import io
from collections.abc import Callable
from fractions import Fraction
from itertools import product
from pathlib import Path

import av

from .container import main_stream, open_video, origin, packets
from .timeline import Timeline

# Codecs to copy, by suffix: those that players of the format decode. None: all that the muxer accepts.
COPIED = {
    '.mp4': {'aac', 'mp3', 'ac3', 'eac3', 'alac', 'opus'},
    '.mov': {'aac', 'mp3', 'ac3', 'eac3', 'alac', 'pcm_s16le', 'pcm_s16be', 'pcm_s24le', 'pcm_s24be'},
    '.mkv': None,
    '.nut': None,
    '.webm': {'opus', 'vorbis'},
}
ENCODERS = {'.mp4': 'aac', '.mov': 'aac', '.mkv': 'aac', '.nut': 'aac', '.webm': 'libopus'}
BIT_RATE = 160_000  # bits per second of a re-encoded stream


class Sound:
    """Writes the sound of a file, in steps that interleave it with the frames.

    Args:
        path: File with the sound.
        output: Container to write to; its header must not have been written yet.
        suffix: Suffix of the output, a key of ``COPIED``.

    Attributes:
        notes: Streams that are re-encoded or left out.
    """

    def __init__(self, path: Path, output, suffix: str) -> None:
        self.notes: list[str] = []
        self._output = output
        self._container = open_video(path)
        self._tracks = {}
        for stream in self._container.streams.audio:
            name = stream.codec_context.codec.canonical_name if stream.codec_context else 'of an unknown codec'
            try:
                track, encoder = _track(stream, output, suffix)
            except (av.FFmpegError, ValueError) as error:
                self.notes.append(f'sound stream {stream.index} ({name}) is left out: {error}')
                continue
            if encoder:
                self.notes.append(
                    f'sound stream {stream.index} is re-encoded as {encoder}: {suffix} does not support {name}'
                )
            self._tracks[stream.index] = track
        timeline = Timeline(origin(self._container, main_stream(self._container, path), sound=True))
        self._packets = packets(self._container, timeline) if self._tracks else iter(())
        self._next = next(self._packets, None)

    def write_until(self, time: Fraction | None = None) -> None:
        """Write the packets that start before ``time`` in seconds; by default all remaining packets.

        Raises:
            av.FFmpegError: If it cannot be written.
        """
        while (packet := self._next) is not None:
            stamp = packet.dts if packet.dts is not None else packet.pts
            if time is not None and stamp is not None and stamp * packet.time_base > time:
                return
            if track := self._tracks.get(packet.stream_index):
                track.write(self._output, packet)
            self._next = next(self._packets, None)
        if time is None:
            for track in self._tracks.values():
                track.finish(self._output)
            for index, track in self._tracks.items():
                if track.damaged:
                    self.notes.append(f'sound stream {index}: {track.damaged} damaged packets are left out')

    def close(self) -> None:
        self._container.close()


class _Track:
    """A stream of the output, whose packets are written with increasing timestamps."""

    def __init__(self, stream) -> None:
        self.damaged = 0
        self._stream = stream
        self._last = None

    def _mux(self, output, packet) -> None:
        if packet.dts is None:
            packet.dts = packet.pts
        if packet.dts is None or packet.is_corrupt:
            self.damaged += 1
            return
        if self._last is not None and packet.dts <= self._last:  # muxers reject it
            packet.dts = self._last + 1
        packet.pts = packet.dts if packet.pts is None else max(packet.pts, packet.dts)
        self._last = packet.dts
        packet.stream = self._stream
        try:
            output.mux(packet)
        except (av.InvalidDataError, av.ArgumentError):  # raised by muxers that parse packets, not for a full disk
            self.damaged += 1


class _Copied(_Track):
    """A stream whose packets are copied."""

    def __init__(self, stream, output) -> None:
        super().__init__(output.add_stream_from_template(stream))

    def write(self, output, packet) -> None:
        self._mux(output, packet)

    def finish(self, output) -> None:
        pass


class _Encoded(_Track):
    """A stream that is re-encoded."""

    def __init__(self, stream, output, encoder: str) -> None:
        self._decoder = stream.codec_context
        rate, layout = _supported(encoder, self._decoder)
        super().__init__(output.add_stream(encoder, rate=rate, layout=layout, bit_rate=BIT_RATE))
        context = self._stream.codec_context
        context.open(strict=False)
        self._resampler = av.AudioResampler(context.format, layout, rate, context.frame_size)
        self._started = False

    def write(self, output, packet) -> None:
        self._encode(output, lambda: self._decoder.decode(packet))

    def finish(self, output) -> None:
        self._encode(output, lambda: self._decoder.decode(None))
        if self._started:  # a resampler that got no frame has nothing to flush
            self._encode(output, lambda: [None])
        for packet in self._stream.encode(None):
            self._mux(output, packet)

    def _encode(self, output, decode: Callable[[], list]) -> None:
        """Decode, resample and encode; packets that are damaged or change their format are left out."""
        packets = []
        try:
            for frame in decode():
                for resampled in self._resampler.resample(frame):
                    packets += self._stream.encode(resampled)
                self._started = True
        except (av.FFmpegError, ValueError):
            self.damaged += 1
        for packet in packets:
            self._mux(output, packet)


def _supported(encoder: str, source) -> tuple[int, str]:
    """The first sample rate and channel layout that an encoder supports: those of the source, or common ones.

    Raises:
        ValueError: If it supports none of them.
    """
    # Containers such as Matroska may declare only the number of channels.
    named = {1: 'mono', 2: 'stereo', 6: '5.1', 8: '7.1'}.get(source.layout.nb_channels, 'stereo')
    for layout, rate in product((source.layout.name, named, 'stereo'), (source.sample_rate, 48000)):
        context = av.CodecContext.create(encoder, 'w')
        context.sample_rate, context.format = rate, context.codec.audio_formats[0]
        try:
            context.layout = layout
            context.open()
        except (av.FFmpegError, ValueError):
            continue
        return rate, layout
    raise ValueError(f'{encoder} does not support its sample rate and channels')


def _track(stream, output, suffix: str) -> tuple[_Copied | _Encoded, str | None]:
    """The track that writes a stream, and the name of the encoder if it is re-encoded."""
    context = stream.codec_context
    if context is None:
        raise ValueError('PyAV has no decoder for it')
    if not context.sample_rate or not context.layout.nb_channels:
        raise ValueError('its header is damaged')
    copied = COPIED[suffix]
    if (copied is None or context.codec.canonical_name in copied) and _is_taken(stream, output.format.name):
        return _Copied(stream, output), None
    return _Encoded(stream, output, ENCODERS[suffix]), ENCODERS[suffix]


def _is_taken(stream, format: str) -> bool:
    """Whether a muxer can write a header for a stream: it supports the codec, and the codec's own header is intact."""
    try:
        with av.open(io.BytesIO(), 'w', format=format) as trial:
            trial.add_stream_from_template(stream)
            trial.start_encoding()
    except (av.FFmpegError, ValueError):
        return False
    return True
