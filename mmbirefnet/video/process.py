"""Background removal in videos, frame by frame."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from itertools import islice, repeat
from pathlib import Path
from typing import BinaryIO, TypeVar

import cv2
import numpy as np

from mmbirefnet.fileio.atomic import already_exists
from mmbirefnet.imaging.compose import compose, fit_background, output_kind, read_background
from mmbirefnet.imaging.read import LoadedImage
from mmbirefnet.imaging.settings import Settings
from mmbirefnet.utils.deprecation import former_argument
from mmbirefnet.utils.prefetch import prefetch
from mmbirefnet.video.container import RawVideo, is_stream
from mmbirefnet.video.reader import Frame, VideoReader
from mmbirefnet.video.resume import FinishedFrames
from mmbirefnet.video.temporal import TemporalSmoother
from mmbirefnet.video.writer import CONTAINERS, STREAMED, check_container, write_stream, write_video

GREEN = (0, 177, 64)  # chroma key green
SUFFIXES = {'cutout': '.mov', 'composite': '.mp4', 'mask': '.mp4'}

T = TypeVar('T')


@dataclass(frozen=True)
class VideoResult:
    """Result of :func:`process_video`.

    Attributes:
        path: The written file; for an open file, its name in messages.
        frames: Number of written frames: all that could be decoded.
        seconds: Processing time.
        damage: Defects of the source: it is truncated, or frames are damaged. Empty for an intact file.
        notes: Differences from the source: re-encoded or missing sound, closed gaps.
    """

    path: Path
    frames: int
    seconds: float
    damage: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def process_video(
    inferencer,
    source: str | os.PathLike | BinaryIO,
    out: str | os.PathLike | BinaryIO,
    *,
    settings: Settings | None = None,
    save: str | None = None,
    estimate_foreground: bool = True,
    background=None,
    smoothing: float = 0.0,
    sound: bool = True,
    tone_map: bool = False,
    overwrite: bool = True,
    workers: int = 2,
    on_frame: Callable[[], None] | None = None,
    format: str | None = None,
    raw: RawVideo | None = None,
    hwaccel: str | None = None,
    resume: bool = False,
    foreground: bool | None = None,
) -> VideoResult:
    """Predict every frame and write a video. Only a few frames are in memory at once.

    Frames keep their timestamps, so a variable frame rate stays variable; no frame is repeated or left out. Sound,
    pixel aspect ratio and color tags are copied.

    Args:
        inferencer: A :class:`~mmbirefnet.apis.BiRefNetInferencer`.
        source: The video, or an open binary file such as a pipe. The sound of an open file is not copied.
        out: File to write (see :class:`~mmbirefnet.video.writer.VideoWriter` for suffixes); a folder, in which the file
            gets the stem of the source; or an open binary file such as a pipe, which is not closed.
        settings: Options of the prediction; ``batch_size`` is in frames.
        save: ``'cutout'`` (with alpha), ``'composite'`` (the object on ``background``) or ``'mask'``. By default
            ``'cutout'`` if ``out`` can store alpha and there is no background, otherwise ``'composite'``.
        estimate_foreground: Whether to estimate the object's own colors at the edges.
        background: Color or image behind ``'composite'``, by default the green of :data:`GREEN`.
        smoothing: Strength of :class:`~mmbirefnet.video.temporal.TemporalSmoother`, 0 for none.
        sound: Whether to copy the sound.
        tone_map: Whether to convert HDR to BT.709; otherwise HDR is rejected.
        overwrite: Whether ``out`` may be replaced.
        workers: Threads that estimate foreground colors and compose frames. Decoding and prediction have a thread each.
        on_frame: Called after each frame.
        format: Format to write to an open file: ``'nut'`` (default; uncompressed, with alpha and timestamps),
            ``'mkv'``, ``'webm'``, or ``'raw'`` for RGBA, RGB or (masks) gray frames without a container.
        raw: Size, rate and pixel format if ``source`` contains raw frames.
        hwaccel: Hardware decoder, see :class:`~mmbirefnet.video.reader.VideoReader`.
        resume: Whether to keep finished frames in the folder ``<out>.resume`` until the video is complete, and to
            continue from those of an interrupted call with the same arguments. The video is the same as without an
            interruption.
        foreground: Former name of ``estimate_foreground``.

    Raises:
        OSError: If the source cannot be read or the output cannot be written. No partial output file is left.
        ValueError: If an option is wrong, the source is a URL, or it is HDR and ``tone_map`` is false.
    """
    estimate_foreground = former_argument('foreground', foreground, 'estimate_foreground', estimate_foreground)
    settings = settings or Settings()
    if workers < 1:
        raise ValueError(f'workers={workers!r}, must be 1 or more')
    path = None if is_stream(source) else Path(source)
    stream = out if is_stream(out) else None
    if stream is not None:
        out, save = _target_stream(format, save, background)
    elif format is not None:
        raise ValueError(
            f'format={format!r}: is only for an open file. Fix: leave it out; the suffix of {out} gives the format'
        )
    else:
        out, save = _target(path or Path('stdin'), out, save, background)
        if path is not None and out.resolve() == path.resolve():
            raise ValueError(f'{out}: is also the source. Fix: choose another output file')
        if out.exists() and not overwrite:
            raise already_exists(out)
    behind = read_background(GREEN if background is None else background)
    smooth = TemporalSmoother(smoothing)
    if resume and (path is None or stream is not None):
        raise ValueError('resume: needs files as source and output. Fix: pass file names instead of a pipe')
    is_raw = out.suffix == '.raw'
    sound = sound and not is_raw and CONTAINERS[out.suffix.lower()].is_video
    start = time.perf_counter()
    written = 0
    with VideoReader(source, tone_map=tone_map, sound=sound, raw=raw, hwaccel=hwaccel) as reader, ExitStack() as stack:
        finished = None
        if resume:
            stat = path.stat()
            job = dict(
                source=path.resolve(),
                bytes=stat.st_size,
                changed=stat.st_mtime_ns,
                model=inferencer.backend.name,
                settings=settings,
                save=save,
                estimate_foreground=estimate_foreground,
                background=_describe(behind),
                smoothing=smoothing,
                tone_map=tone_map,
                raw=raw,
            )
            finished = FinishedFrames(out.with_name(f'{out.name}.resume'), job, settings.batch_size, smoothing > 0)
        writer = stack.enter_context(
            (partial(write_video, out, overwrite=overwrite) if stream is None else partial(write_stream, stream, out))(
                reader.size,
                reader.rate,
                reader.time_base,
                alpha=save == 'cutout',
                color=reader.color,
                pixel_aspect=reader.pixel_aspect,
                sound=path if sound else None,
            )
        )
        if sound and path is None and reader.has_sound:
            reader.notes.append('the sound of a pipe is not copied. Fix: pass a file name to keep it')
        behind = _fit(behind, reader.size, reader.pixel_aspect)

        def finish(prediction: tuple[Frame, np.ndarray, tuple]) -> np.ndarray:
            frame, alpha, _ = prediction
            device = inferencer.compose_device
            pixels = compose(save, frame.image, alpha, behind, estimate_foreground=estimate_foreground, device=device)
            return np.repeat(pixels[..., None], 3, 2) if save == 'mask' and not is_raw else pixels

        def write(frame: Frame, pixels: np.ndarray) -> None:
            nonlocal written
            writer.write(pixels, frame.time, frame.duration, reader.time_base)
            written += 1
            if on_frame is not None:
                on_frame()

        frames = stack.enter_context(closing(_ahead(reader)))
        if finished is not None:
            smooth.state = finished.state
            for index, frame in enumerate(islice(frames, finished.count)):
                write(frame, finished.load(index))
        predictions = stack.enter_context(closing(_ahead(_predict(inferencer, frames, settings, smooth))))
        finishing = stack.enter_context(prefetch(finish, predictions, workers))
        for (frame, _, state), pixels, error in finishing:
            if error is not None:
                raise error
            if finished is not None:
                finished.save(written, pixels, state)
            write(frame, pixels)
    if finished is not None:
        finished.remove()
    return VideoResult(out, written, time.perf_counter() - start, reader.damage, reader.notes + writer.notes)


def _describe(background: LoadedImage | tuple[int, int, int]) -> str:
    if not isinstance(background, LoadedImage):
        return str(background)
    return f'{background.name} {hashlib.sha256(background.visible().tobytes()).hexdigest()[:16]}'


def _target_stream(format: str | None, save: str | None, background) -> tuple[Path, str]:
    """Name of the open file in messages, with the suffix of its format, and the kind of output."""
    format = format or STREAMED[0]
    if format not in STREAMED:
        raise ValueError(f'format={format!r}, must be one of {", ".join(STREAMED)} for a pipe')
    out = Path(f'standard output.{format}')
    save = _checked_save(save, background, format == 'raw' or CONTAINERS[out.suffix].transparent is not None)
    if format != 'raw':
        check_container(out, save == 'cutout')
    return out, save


def _checked_save(save: str | None, background, transparent: bool) -> str:
    """The kind of output; by default the cut-out if the format stores alpha and there is no background."""
    save = save and output_kind(save)
    if background is not None and save not in (None, 'composite'):
        raise ValueError(f'background={background!r}: is not used with save={save!r}')
    return save or ('cutout' if background is None and transparent else 'composite')


def _target(source: Path, out: str | os.PathLike | None, save: str | None, background) -> tuple[Path, str]:
    if out is None:
        raise ValueError(f'{source}: is a video. Fix: pass the file or folder to write to')
    out = Path(out)
    if out.is_dir() or not out.suffix:
        save = _checked_save(save, background, True)
        out = out / f'{source.stem}{SUFFIXES[save]}'
    else:
        kind = CONTAINERS.get(out.suffix.lower())
        save = _checked_save(save, background, kind is not None and kind.transparent is not None)
    check_container(out, save == 'cutout')
    return out, save


def _fit(background: LoadedImage | tuple[int, int, int], size: tuple[int, int], pixel_aspect: Fraction):
    """Resize the background to the frames once; its displayed aspect ratio is kept."""
    if not isinstance(background, LoadedImage):
        return background
    height, width = size
    rgb = fit_background(background, (height, max(1, round(width * pixel_aspect))))
    return LoadedImage(cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA), name=background.name)


def _ahead(items: Iterable[T]) -> Iterator[T]:
    """Compute each item in a thread while the previous one is used."""
    items = iter(items)
    with prefetch(lambda _: next(items, None), repeat(None), workers=1, ahead=1) as results:
        for _, item, error in results:
            if error is not None:
                raise error
            if item is None:
                return
            yield item


def _predict(
    inferencer, frames: Iterator[Frame], settings: Settings, smooth: TemporalSmoother
) -> Iterator[tuple[Frame, np.ndarray, tuple[np.ndarray, ...]]]:
    """Yield frames with their predictions, and the state of the smoother after each."""
    while batch := list(islice(frames, settings.batch_size)):
        for frame, alpha in zip(batch, inferencer.predict_images([frame.image for frame in batch], settings)):
            yield frame, smooth(frame.image.rgb, alpha), smooth.state
