"""One job: plan the outputs, predict, write in threads, report. Command, inferencer and demo run images through it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmbirefnet.imaging.sandbox import ImageDecoder
from mmbirefnet.imaging.settings import Settings
from mmbirefnet.imaging.sources import Source
from mmbirefnet.imaging.write import OutputWriter
from mmbirefnet.utils.prefetch import BoundedWorkers

if TYPE_CHECKING:
    from mmbirefnet.apis.inferencer import BiRefNetInferencer, Prediction


@dataclass
class Report:
    """Counts of a job.

    Attributes:
        written: Images whose files were written.
        skipped: Images that were left alone because their files exist.
        failed: Images that failed.
        seconds: Time that the job ran.
    """

    written: int = 0
    skipped: int = 0
    failed: int = 0
    seconds: float = 0

    def counts(self) -> dict[str, int]:
        """The counts alone, by name."""
        return dict(written=self.written, skipped=self.skipped, failed=self.failed)


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
        on_error: Callable[[Source, Exception], None] | None = None,
        on_done: Callable[[], None] = lambda: None,
    ) -> None:
        self.inferencer, self.writer, self.settings = inferencer, writer, settings or Settings()
        self.workers, self.skip_existing, self.channel_order = workers, skip_existing, channel_order
        self.decoder, self.max_pixels = decoder, max_pixels
        self.on_error, self.on_done = on_error, on_done
        self.report = Report()
        self._first_error: Exception | None = None
        self._lock = threading.Lock()

    def plan(self, sources: list[Source], wanted: list[Source] | None = None) -> list[Source]:
        """Name the outputs of all sources, which only together show what collides.

        Args:
            sources: All images of the job.
            wanted: Those to predict now; by default all.

        Returns:
            Those to predict whose files do not exist yet and can be written.

        Raises:
            OSError, ValueError: If a file cannot be written and there is no ``on_error``.
        """
        wanted = sources if wanted is None else wanted
        if self.writer is None:
            return wanted
        self.writer.plan(sources)
        return [source for source in wanted if self._is_wanted(source)]

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
        )
        try:
            with BoundedWorkers(self.workers) as writers:
                for prediction in predictions:
                    if self.writer is not None:
                        writers.submit(self._write, prediction)
                    yield prediction
                    self._raise_first()
            self._raise_first()
        finally:
            self.report.seconds += time.perf_counter() - start

    def _write(self, prediction: Prediction) -> None:
        try:
            self.writer.write(prediction)
        except Exception as error:
            self._fail(prediction.source, error)
        else:
            with self._lock:
                self.report.written += 1
            self.on_done()

    def _fail(self, source: Source, error: Exception) -> None:
        with self._lock:
            self.report.failed += 1
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
