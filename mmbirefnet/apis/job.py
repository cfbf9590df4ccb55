"""One job: plan the outputs, predict, write in threads, report. Command, inferencer and demo run images through it."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from mmbirefnet.fileio.atomic import replacing
from mmbirefnet.imaging.compose import opacity
from mmbirefnet.imaging.maps import VISIBLE, box_of_object
from mmbirefnet.imaging.read import LoadedSequence
from mmbirefnet.imaging.sandbox import ImageDecoder
from mmbirefnet.imaging.settings import Settings
from mmbirefnet.imaging.sources import Source
from mmbirefnet.imaging.write import OutputWriter
from mmbirefnet.utils.prefetch import BoundedWorkers

if TYPE_CHECKING:
    from mmbirefnet.apis.inferencer import BiRefNetInferencer, Prediction


@dataclass
class Report:
    """What became of the images of a job.

    Attributes:
        written: Images whose files were written.
        skipped: Images that were left alone because their files exist.
        failed: Images that failed.
        seconds: Time that the job ran.
        model: Name of the model.
        images: If asked for, a record for each image in the order they were finished: ``input``; ``outputs``, files by
            kind; ``width``, ``height`` and ``frames``; ``box`` of the object in all frames, left, top, right and bottom
            in pixels, ``None`` if nothing is visible; ``input_sizes`` of the model, (height, width) for each scale;
            ``seconds`` of prediction and writing; ``error``. An image that failed has ``input`` and ``error`` alone.
    """

    written: int = 0
    skipped: int = 0
    failed: int = 0
    seconds: float = 0
    model: str | None = None
    images: list[dict] = field(default_factory=list)

    def save(self, path: str | os.PathLike) -> None:
        """Write the report as JSON; an older one is replaced.

        Raises:
            OSError: If it cannot be written.
        """
        content = json.dumps(asdict(self), indent=1)  # escapes what is not ASCII, names that are not UTF-8 too
        try:
            with replacing(path, sync=False) as temporary:
                temporary.write_text(f'{content}\n')
        except OSError as error:
            raise OSError(f'{path}: the report cannot be written ({error})') from error

    @classmethod
    def joined(cls, reports: list[Report]) -> Report:
        """One report of processes that shared the images: sums, the longest time, and the records by input."""
        counts = {name: sum(getattr(report, name) for report in reports) for name in ('written', 'skipped', 'failed')}
        images = sorted((image for report in reports for image in report.images), key=lambda image: image['input'])
        return cls(**counts, seconds=max(report.seconds for report in reports), model=reports[0].model, images=images)


class ImageJob:
    """Predicts images and writes their files.

    Args:
        inferencer: Predicts.
        writer: Writes; ``None`` to predict only.
        settings: Options of the prediction.
        workers: Threads that read, and threads that write.
        skip_existing: Whether to leave images out whose files all exist.
        channel_order: Of arrays.
        decoder: Reads files in worker processes; ``None`` reads them in this process.
        max_pixels: Largest image read in this process; see :func:`~mmbirefnet.imaging.read.load_image`.
        frames: ``'first'`` or ``'all'`` of a file with several frames or pages.
        records: Whether to keep a record of each image in the report.
        guide: Coarse masks for a model that takes them, see :class:`~mmbirefnet.imaging.masks.MaskFiles`.
        on_error: Called with an image and its error, also from other threads; the other images go on. ``None`` raises
            the first error.
        on_done: Called after each image, whatever became of it, also from other threads.
    """

    def __init__(
        self,
        inferencer: BiRefNetInferencer,
        writer: OutputWriter | None = None,
        settings: Settings | None = None,
        *,
        workers: int = 2,
        skip_existing: bool = False,
        channel_order: str = 'bgr',
        decoder: ImageDecoder | None = None,
        max_pixels: int | None = None,
        frames: str = 'first',
        records: bool = False,
        guide=None,
        on_error: Callable[[Source, Exception], None] | None = None,
        on_done: Callable[[], None] = lambda: None,
    ) -> None:
        self.inferencer, self.writer, self.settings = inferencer, writer, settings or Settings()
        self.workers, self.skip_existing, self.channel_order = workers, skip_existing, channel_order
        self.decoder, self.max_pixels, self.frames, self.records = decoder, max_pixels, frames, records
        self.guide = guide
        self.on_error, self.on_done = on_error, on_done
        self.report = Report(model=getattr(inferencer.backend, 'name', None))
        if writer is not None and writer.device is None:
            writer.device = inferencer.compose_device
        self._first_error: Exception | None = None
        self._lock = threading.Lock()

    def plan(self, sources: list[Source], wanted: list[Source] | None = None, limit: int | None = None) -> list[Source]:
        """Name the outputs of all sources, which only together show what collides.

        Args:
            sources: All images of the job.
            wanted: Those to predict now; by default all.
            limit: Most images to predict, without those that are skipped.

        Returns:
            Those to predict whose files do not exist yet and can be written.

        Raises:
            OSError, ValueError: If a file cannot be written and there is no ``on_error``, or ``limit`` is below 1.
        """
        if limit is not None and limit < 1:
            raise ValueError(f'limit={limit!r}, must be 1 or more')
        wanted = sources if wanted is None else wanted
        if self.writer is None:
            return wanted[:limit]
        sequences = ()
        if self.frames == 'all' and self.writer.format is None:
            sequences = {source for source in sources if source.is_sequence(self.decoder, self.max_pixels)}
        self.writer.plan(sources, sequences)
        return list(islice(filter(self._is_wanted, wanted), limit))

    def _is_wanted(self, source: Source) -> bool:
        if self.skip_existing and len(self.writer.existing(source)) == len(self.writer.save):
            self.report.skipped += 1
            return False
        try:
            self.writer.check(source)
        except (OSError, ValueError) as error:
            if self.on_error is None:
                raise
            self._fail(source, error)
            return False
        return True

    def run(self, sources: list[Source]) -> Iterator[Prediction]:
        """Predict and write planned sources, in order; files may still be in writing when a prediction is returned.

        Yields:
            Predictions; none for images in error. The files are complete when the iterator ends or is closed.

        Raises:
            OSError, ValueError: If an image cannot be read, predicted or written and there is no ``on_error``.
        """
        start = time.perf_counter()
        predictions = self.inferencer.predict(
            sources,
            self.settings,
            on_error=None if self.on_error is None else self._fail,
            channel_order=self.channel_order,
            workers=self.workers,
            decoder=self.decoder,
            max_pixels=self.max_pixels,
            frames=self.frames,
            guide=self.guide,
        )
        try:
            with BoundedWorkers(self.workers) as writers:
                for prediction in predictions:
                    if self.writer is not None or self.records:
                        writers.submit(self._finish, prediction)
                    yield prediction
                    self._raise_first()
            self._raise_first()
        finally:
            self.report.seconds += time.perf_counter() - start

    def _finish(self, prediction: Prediction) -> None:
        start = time.perf_counter()
        try:
            record = self._describe(prediction) if self.records else None
            if self.writer is not None:
                self.writer.write(prediction)
        except Exception as error:
            self._fail(prediction.source, error)
            return
        with self._lock:
            self.report.written += self.writer is not None
            if record is not None:
                record['seconds'] = round(prediction.seconds + time.perf_counter() - start, 4)
                self.report.images.append(record)
        self.on_done()

    def _describe(self, prediction: Prediction) -> dict:
        source, image, soft_map, _ = prediction
        sequence = isinstance(image, LoadedSequence)
        frames, maps = (image.frames, soft_map) if sequence else ([image], [soft_map])
        targets = {} if self.writer is None else self.writer.targets(source)
        return dict(
            input=source.name,
            outputs={kind: str(path) for kind, path in targets.items()},
            width=image.size[1],
            height=image.size[0],
            frames=len(frames),
            box=_box(frames, maps),
            input_sizes=self.inferencer.input_sizes(frames[0], self.settings),
        )

    def _fail(self, source: Source, error: Exception) -> None:
        with self._lock:
            self.report.failed += 1
            if self.records:
                self.report.images.append(dict(input=source.name, error=str(error) or type(error).__name__))
            if self.on_error is not None:
                self.on_error(source, error)
            elif self._first_error is None:
                self._first_error = error
        self.on_done()

    def _raise_first(self) -> None:
        error, self._first_error = self._first_error, None
        if error is not None:
            try:
                raise error
            finally:
                del error  # the error holds this frame, which would hold the error and the images of its frames


def _box(frames, maps) -> list[int] | None:
    """(left, top, right, bottom) around what is visible in any frame."""
    boxes = []
    for frame, soft_map in zip(frames, maps):
        alpha = opacity(frame, soft_map)
        if alpha.max() >= VISIBLE:
            rows, columns = box_of_object(alpha)
            boxes.append((columns.start, rows.start, columns.stop, rows.stop))
    if not boxes:
        return None
    left, top, right, bottom = zip(*boxes)
    return [min(left), min(top), max(right), max(bottom)]


class Share(NamedTuple):
    """Which part of the work is this process's: items ``rank``, ``rank + size``, and so on."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    """Index of the process on its machine."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Share:
        """The share that torchrun (``RANK``, ``WORLD_SIZE``) or a step of srun (``SLURM_PROCID``) gives this process.

        In a Slurm batch script itself, outside srun, one process has all the work.

        Raises:
            ValueError: If the numbers do not go together.
        """
        if 'RANK' in environment and 'WORLD_SIZE' in environment:
            names = ('RANK', 'WORLD_SIZE', 'LOCAL_RANK')
        elif 'SLURM_PROCID' in environment and 'SLURM_STEP_ID' in environment:
            names = ('SLURM_PROCID', 'SLURM_STEP_NUM_TASKS', 'SLURM_LOCALID')
            if names[1] not in environment:
                names = ('SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_LOCALID')
        else:
            return cls()
        values = [environment.get(name, '0') for name in names]
        if not all(value.isdecimal() for value in values) or not int(values[0]) < int(values[1]):
            found = ', '.join(f'{name}={value}' for name, value in zip(names, values))
            raise ValueError(
                f'{found}: expected a rank below the number of processes. Fix: start it by torchrun or srun'
            )
        return cls(*map(int, values))

    def begin(self, folder: Path) -> None:
        """Forget the report that an earlier run left for this rank."""
        self._file(folder, self.rank).unlink(missing_ok=True)

    def join(self, folder: Path, report: Report) -> Report | None:
        """Leave this process's report in a folder that all processes see.

        Returns:
            The report of all processes for the last one that ends, which removes the files; ``None`` for the others.
        """
        folder.mkdir(parents=True, exist_ok=True)
        report.save(self._file(folder, self.rank))
        files = [self._file(folder, rank) for rank in range(self.size)]
        try:
            parts = [Report(**json.loads(file.read_bytes())) for file in files]
        except FileNotFoundError:  # still at work, or another process was the last and has removed them
            return None
        for file in files:
            file.unlink(missing_ok=True)
        return Report.joined(parts)

    def _file(self, folder: Path, rank: int) -> Path:
        return folder / f'.report-{rank}-of-{self.size}.json'
