"""Background removal in videos, frame by frame."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import islice, repeat
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np

from mmbirefnet.imaging.compose import KINDS, compose, fit_background, read_background
from mmbirefnet.imaging.read import LoadedImage
from mmbirefnet.imaging.settings import Settings
from mmbirefnet.utils.prefetch import prefetch
from mmbirefnet.video.reader import Frame, VideoReader
from mmbirefnet.video.temporal import TemporalSmoother
from mmbirefnet.video.writer import CONTAINERS, check_container, write_video

GREEN = (0, 177, 64)  # chroma key green
SUFFIXES = {'cutout': '.mov', 'foreground': '.mp4', 'mask': '.mp4'}

T = TypeVar('T')


@dataclass(frozen=True)
class VideoResult:
    """What was written.

    Attributes:
        path: The file.
        frames: Frames in it, one for each that could be decoded.
        seconds: Time taken.
        damage: What the source lacks: that it is cut off, that frames are damaged. Empty for a whole file.
        notes: What differs from the source: sound that is encoded again or left out, gaps that are closed.
    """

    path: Path
    frames: int
    seconds: float
    damage: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def process_video(
    inferencer,
    source: str | os.PathLike,
    out: str | os.PathLike,
    *,
    settings: Settings | None = None,
    save: str | None = None,
    foreground: bool = True,
    background=None,
    smoothing: float = 0.0,
    sound: bool = True,
    tone_map: bool = False,
    overwrite: bool = True,
    workers: int = 2,
    on_frame: Callable[[], None] | None = None,
) -> VideoResult:
    """Predict every frame and write a video; a few frames are in memory at a time, whatever its length.

    Frames keep their times, so that a variable rate stays variable; none is repeated or left out. Sound, pixel aspect
    and color tags are taken over.

    Args:
        inferencer: A :class:`~mmbirefnet.apis.BiRefNetInferencer`.
        source: The video.
        out: File to write (see :class:`~mmbirefnet.video.writer.VideoWriter` for suffixes), or a folder, which gets
            a file of the source's stem.
        settings: Options of the prediction; ``batch_size`` is in frames.
        save: ``'cutout'`` (with alpha), ``'foreground'`` (on ``background``) or ``'mask'``. By default the first where
            ``out`` can hold alpha and there is no background, else the second.
        foreground: Estimate the colors of the foreground.
        background: Color or image behind ``'foreground'``, by default the green of a green screen.
        smoothing: Strength of :class:`~mmbirefnet.video.temporal.TemporalSmoother`, 0 for none.
        sound: Take the source's sound over.
        tone_map: Convert HDR to BT.709; by default it is rejected.
        overwrite: Whether ``out`` may be replaced.
        workers: Threads that estimate foregrounds and compose frames. Decoding and prediction have a thread each.
        on_frame: Called after each frame.

    Raises:
        OSError: If the source cannot be read or the file not be written; nothing is left of it then.
        ValueError: If an option is wrong, the source a URL, or HDR without ``tone_map``.
    """
    settings = settings or Settings()
    if workers < 1:
        raise ValueError(f'workers={workers!r}, must be 1 or more')
    path = Path(source)
    out, save = _target(path, out, save, background)
    if out.resolve() == path.resolve():
        raise ValueError(f'{out}: is the source itself')
    if out.exists() and not overwrite:
        raise FileExistsError(f'{out}: exists already')
    behind = read_background(GREEN if background is None else background)
    smooth = TemporalSmoother(smoothing)
    sound = sound and CONTAINERS[out.suffix.lower()].is_video
    start = time.perf_counter()
    written = 0
    with (
        VideoReader(source, tone_map=tone_map, sound=sound) as reader,
        write_video(
            out,
            reader.size,
            reader.rate,
            reader.time_base,
            alpha=save == 'cutout',
            color=reader.color,
            pixel_aspect=reader.pixel_aspect,
            sound=path if sound else None,
            overwrite=overwrite,
        ) as writer,
    ):
        behind = _fit(behind, reader.size, reader.pixel_aspect)

        def finish(prediction: tuple[Frame, np.ndarray]) -> np.ndarray:
            frame, alpha = prediction
            device = inferencer.foreground_device
            pixels = compose(save, frame.image, alpha, behind, estimate_foreground=foreground, device=device)
            return np.repeat(pixels[..., None], 3, 2) if save == 'mask' else pixels

        predictions = _ahead(_predict(inferencer, _ahead(reader), settings, smooth))
        for (frame, _), pixels, error in prefetch(finish, predictions, workers):
            if error is not None:
                raise error
            writer.write(pixels, frame.time, frame.duration, reader.time_base)
            written += 1
            if on_frame is not None:
                on_frame()
    return VideoResult(out, written, time.perf_counter() - start, reader.damage, reader.notes + writer.notes)


def _target(source: Path, out: str | os.PathLike | None, save: str | None, background) -> tuple[Path, str]:
    if out is None:
        raise ValueError(f'{source}: is a video; name the file or folder to write to')
    if save not in (None, *KINDS):
        raise ValueError(f'save={save!r}, must be one of {", ".join(KINDS)} for a video')
    if background is not None and save not in (None, 'foreground'):
        raise ValueError(f'background={background!r}: is not used with save={save!r}')
    if str(out) == '-':
        raise ValueError('-o -: videos are not written to the standard output. Fix: name a file or a folder')
    out = Path(out)
    if out.is_dir() or not out.suffix:
        save = save or ('cutout' if background is None else 'foreground')
        out = out / f'{source.stem}{SUFFIXES[save]}'
    elif save is None:
        kind = CONTAINERS.get(out.suffix.lower())
        save = 'cutout' if background is None and kind is not None and kind.transparent else 'foreground'
    check_container(out, save == 'cutout')
    return out, save


def _fit(background: LoadedImage | tuple[int, int, int], size: tuple[int, int], pixel_aspect: Fraction):
    """The background at the size of the frames, once for all of them; what it shows keeps its shape on the screen."""
    if not isinstance(background, LoadedImage):
        return background
    height, width = size
    rgb = fit_background(background, (height, max(1, round(width * pixel_aspect))))
    return LoadedImage(cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA), name=background.name)


def _ahead(items: Iterable[T]) -> Iterator[T]:
    """Items, each made in a thread while the one before is used."""
    items = iter(items)
    for _, item, error in prefetch(lambda _: next(items, None), repeat(None), workers=1, ahead=1):
        if error is not None:
            raise error
        if item is None:
            return
        yield item


def _predict(
    inferencer, frames: Iterable[Frame], settings: Settings, smooth: TemporalSmoother
) -> Iterator[tuple[Frame, np.ndarray]]:
    frames = iter(frames)
    while batch := list(islice(frames, settings.batch_size)):
        for frame, alpha in zip(batch, inferencer.predict_images([frame.image for frame in batch], settings)):
            yield frame, smooth(frame.image.rgb, alpha)
