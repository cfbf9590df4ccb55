"""Run a job over images: plan the outputs, predict, write in threads, and report."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
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
from mmbirefnet.utils.process_guard import is_running

if TYPE_CHECKING:
    from mmbirefnet.apis.inferencer import BiRefNetInferencer, Prediction


@dataclass
class Report:
    """Counts, and optionally records, of the images of a job.

    Attributes:
        written: Number of images whose files were written.
        skipped: Number of images that were skipped because their files exist.
        failed: Number of images that failed.
        seconds: Duration of the job.
        model: Name of the model.
        images: One record per image if ``records`` is set, in the order in which they were finished: ``input``;
            ``outputs``, the files by output; ``width``, ``height`` and ``frames``; ``box`` around the object in all
            frames, (left, top, right, bottom) in pixels, or ``None`` if nothing is visible; ``input_sizes`` of the
            model, (height, width) for each scale; ``seconds`` for prediction and writing. Images that failed have
            only ``input`` and ``error``.
    """

    written: int = 0
    skipped: int = 0
    failed: int = 0
    seconds: float = 0
    model: str | None = None
    images: list[dict] = field(default_factory=list)

    def save(self, path: str | os.PathLike, **further) -> None:
        """Write the report as JSON, with ``further`` entries, and replace an older one.

        Raises:
            OSError: If it cannot be written.
        """
        # As ASCII, with escapes also for names that are not UTF-8.
        content = json.dumps(asdict(self) | further, indent=1)
        try:
            with replacing(path, sync=False) as temporary:
                temporary.write_text(f'{content}\n')
        except OSError as error:
            raise OSError(f'{path}: the report cannot be written ({error})') from error

    @classmethod
    def joined(cls, reports: list[Report]) -> Report:
        """Combine the reports of several processes: sum of the counts, longest time, records sorted by input."""
        counts = {name: sum(getattr(report, name) for report in reports) for name in ('written', 'skipped', 'failed')}
        images = sorted((image for report in reports for image in report.images), key=lambda image: image['input'])
        return cls(**counts, seconds=max(report.seconds for report in reports), model=reports[0].model, images=images)


class ImageJob:
    """Predicts images and writes the outputs.

    Args:
        inferencer: Model.
        writer: Writes the outputs; ``None`` to predict only.
        settings: Options of the prediction.
        workers: Number of threads that read, and of threads that write.
        skip_existing: Whether to skip images whose output files all exist.
        channel_order: Order of the channels of arrays.
        decoder: Reads files in worker processes; ``None`` reads them in this process.
        max_pixels: Largest image to read in this process, in pixels; see :func:`~mmbirefnet.imaging.read.load_image`.
        frames: ``'first'`` or ``'all'`` of a file with several frames or pages.
        records: Whether to keep a record of each image in the report.
        guide: Coarse masks for a model that takes them, see :class:`~mmbirefnet.imaging.masks.MaskFiles`.
        on_error: Called, from any thread, with each image that failed and its error; the job continues. ``None`` raises
            the first error.
        on_done: Called, from any thread, after each image, also if it failed.
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
        """Choose names for the outputs of all sources, so that no two collide, and select the images to predict.

        Args:
            sources: All images of the job.
            wanted: Images to predict now; by default all.
            limit: Largest number of images to predict, not counting skipped ones.

        Returns:
            Images to predict, without those that are skipped and those whose files cannot be written.

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
        """Predict and write planned sources, in order. Files are written in threads, after the prediction is yielded.

        Yields:
            Predictions, without images that failed. The files are complete when the iterator ends or is closed.

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
                del error  # breaks a reference cycle, which would keep the images of its frames in memory


def _box(frames, maps) -> list[int] | None:
    """(left, top, right, bottom) around the visible pixels of all frames."""
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
    """Share of one process in the work: items ``rank``, ``rank + size``, ``rank + 2 size``, …"""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    """Index of the process on its machine."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Share:
        """Read the share from the variables of torchrun (``RANK``, ``WORLD_SIZE``) or srun (``SLURM_PROCID``).

        In a Slurm batch script outside of srun, a single process does all the work.

        Raises:
            ValueError: If the rank is not below the number of processes.
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
                f'{found}: expected a rank below the number of processes. Fix: start it with torchrun or srun'
            )
        return cls(*map(int, values))

    def begin(self, folder: Path) -> None:
        """Delete the reports that earlier jobs left behind: of this rank, and of jobs of this machine that have ended.

        A job has ended if its launcher, the parent of its processes, no longer runs. Other reports stay, since they may
        belong to a job that is still running.
        """
        self._file(folder, self.rank).unlink(missing_ok=True)
        for file in folder.glob('.report-*-of-*.json'):
            with suppress(OSError, ValueError, KeyError, TypeError):  # removed by another process, or not ours
                launcher = json.loads(file.read_bytes())['launcher']
                if launcher['host'] == socket.gethostname() and not is_running(launcher['pid']):
                    file.unlink(missing_ok=True)

    def join(self, folder: Path, report: Report) -> Report | None:
        """Write the report of this process to a shared folder, and combine all reports if it is the last one.

        Returns:
            In the process that ends last, the report of all processes (the files are then removed); otherwise ``None``.
        """
        folder.mkdir(parents=True, exist_ok=True)
        launcher = dict(host=socket.gethostname(), pid=os.getppid())
        report.save(self._file(folder, self.rank), launcher=launcher)
        files = [self._file(folder, rank) for rank in range(self.size)]
        try:
            contents = [json.loads(file.read_bytes()) for file in files]
        except FileNotFoundError:  # a process is still running, or the last one has removed the files
            return None
        for file, content in zip(files, contents):
            file.unlink(missing_ok=True)
            content.pop('launcher', None)
        return Report.joined([Report(**content) for content in contents])

    def _file(self, folder: Path, rank: int) -> Path:
        return folder / f'.report-{rank}-of-{self.size}.json'
