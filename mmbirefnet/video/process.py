"""Objects cut out of videos, frame by frame."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from mmbirefnet.imaging.compose import composite, cut_out, fit_background, read_background
from mmbirefnet.imaging.maps import to_uint8
from mmbirefnet.imaging.read import LoadedImage
from mmbirefnet.imaging.settings import Settings
from mmbirefnet.utils.prefetch import prefetch
from mmbirefnet.video.container import VideoReader, VideoWriter, check_container
from mmbirefnet.video.temporal import TemporalSmoother

GREEN = (0, 177, 64)  # chroma key green
KINDS = ('cutout', 'foreground', 'mask')
SUFFIXES = {'cutout': '.mov', 'foreground': '.mp4', 'mask': '.mp4'}


@dataclass(frozen=True)
class VideoResult:
    """What was written.

    Attributes:
        path: The file.
        frames: Frames in it.
        declared_frames: Frames that the source's header announces, 0 if it does not; more than ``frames`` if the source
            is cut off.
        seconds: Time taken.
    """

    path: Path
    frames: int
    declared_frames: int
    seconds: float


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
    overwrite: bool = True,
    workers: int = 2,
    on_frame: Callable[[], None] | None = None,
) -> VideoResult:
    """Predict every frame and write a video; a few frames are in memory at a time, however long it is.

    Args:
        inferencer: A :class:`~mmbirefnet.apis.BiRefNetInferencer`.
        source: The video.
        out: File to write (see :class:`~mmbirefnet.video.container.VideoWriter` for suffixes), or a folder, which gets
            a file of the source's stem.
        settings: Options of the prediction; ``batch_size`` is in frames.
        save: ``'cutout'`` (with alpha), ``'foreground'`` (on ``background``) or ``'mask'``. By default the first where
            ``out`` can hold alpha and there is no background, else the second.
        foreground: Estimate the colors of the foreground.
        background: Color or image behind ``'foreground'``, by default the green of a green screen.
        smoothing: Strength of :class:`~mmbirefnet.video.temporal.TemporalSmoother`, 0 for none.
        sound: Take the source's sound over; silent without ffmpeg.
        overwrite: Whether ``out`` may be replaced.
        workers: Threads that estimate foregrounds and put frames together.
        on_frame: Called after each frame.

    Raises:
        OSError: The source cannot be read or the file not be written; nothing is left of it then.
        ValueError: An option is wrong.
    """
    settings = settings or Settings()
    source = Path(source)
    out, save = _target(source, out, save, background)
    if out.resolve() == source.resolve():
        raise ValueError(f'{out}: is the source itself')
    if out.exists() and not overwrite:
        raise FileExistsError(f'{out}: exists already')
    behind = read_background(GREEN if background is None else background)
    smooth = TemporalSmoother(smoothing)
    start = time.perf_counter()
    written = 0
    with VideoReader(source) as reader:
        sounding = source if sound and shutil.which('ffmpeg') else None
        with VideoWriter(out, reader.frames_per_second, save == 'cutout', sounding) as writer:
            maps = _smoothed(smooth, _predict(inferencer, reader, settings))
            for _, frame, error in prefetch(_Finish(save, foreground, behind), maps, workers):
                if error is not None:
                    raise error
                writer.write(frame)
                written += 1
                if on_frame is not None:
                    on_frame()
        declared = reader.declared_frames
    return VideoResult(out, written, declared, time.perf_counter() - start)


def _target(source: Path, out: str | os.PathLike | None, save: str | None, background) -> tuple[Path, str]:
    if out is None:
        raise ValueError(f'{source}: is a video; name the file or folder to write to')
    if save not in (None, *KINDS):
        raise ValueError(f'save={save!r}, must be one of {", ".join(KINDS)} for a video')
    if background is not None and save not in (None, 'foreground'):
        raise ValueError(f'background={background!r}: is not used with save={save!r}')
    out = Path(out)
    if out.is_dir() or not out.suffix:
        save = save or ('cutout' if background is None else 'foreground')
        out = out / f'{source.stem}{SUFFIXES[save]}'
    elif save is None:
        save = 'cutout' if background is None and out.suffix.lower() in ('.mov', '.webm') else 'foreground'
    check_container(out, save == 'cutout')
    return out, save


def _predict(inferencer, frames: Iterable[LoadedImage], settings: Settings) -> Iterator[tuple[LoadedImage, np.ndarray]]:
    frames = iter(frames)
    while batch := list(islice(frames, settings.batch_size)):
        yield from zip(batch, inferencer.predict_images(batch, settings))


def _smoothed(
    smooth: TemporalSmoother, predictions: Iterable[tuple[LoadedImage, np.ndarray]]
) -> Iterator[tuple[LoadedImage, np.ndarray]]:
    for image, soft_map in predictions:
        yield image, smooth(image.rgb, soft_map)


@dataclass
class _Finish:
    """Makes a frame of the result, uint8 RGB or RGBA; called in threads."""

    save: str
    foreground: bool
    background: LoadedImage | tuple[int, int, int]

    def __call__(self, prediction: tuple[LoadedImage, np.ndarray]) -> np.ndarray:
        image, soft_map = prediction
        if self.save == 'mask':
            return np.repeat(to_uint8(soft_map)[..., None], 3, 2)
        cutout = cut_out(image, soft_map, self.foreground)
        return cutout if self.save == 'cutout' else composite(cutout, fit_background(self.background, image.size))
