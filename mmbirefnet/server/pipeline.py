"""Process uploads: decode, predict, compose and encode, within the limits on memory and time."""

from __future__ import annotations

import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mmbirefnet.apis.inferencer import BiRefNetInferencer
from mmbirefnet.apis.masks import MaskInferencer
from mmbirefnet.imaging.compose import compose, opacity
from mmbirefnet.imaging.maps import box_of_object
from mmbirefnet.imaging.masks import MaskFiles
from mmbirefnet.imaging.read import LoadedImage, TooManyPixelsError
from mmbirefnet.imaging.sandbox import ImageDecoder
from mmbirefnet.imaging.settings import Settings
from mmbirefnet.imaging.sources import Source
from mmbirefnet.imaging.write import FORMATS, LONGEST_SIDES, encode_image

from .limits import Budget, Late, Limits, ModelWork, Share, TooCostly, cost, model_work

POLL_SECONDS = 0.5  # interval at which waiting threads check whether their client has disconnected
LOG = logging.getLogger('mmbirefnet.server')


@dataclass
class Job:
    """A request whose body has arrived.

    Attributes:
        name: File name of the image.
        read: Function that returns the bytes of the image file; called once.
        model: Name of the model.
        settings: Options of the prediction.
        output: ``'mask'``, ``'cutout'`` or ``'composite'``.
        format: ``'png'``, ``'webp'`` or ``'jpg'``.
        background: Color (red, green, blue), or a function that returns the bytes of an image file.
        background_name: File name of the background image.
        estimate_foreground: Whether to estimate the object's own colors at the edges.
        crop: Margin for cropping to the object, as a fraction of its sides; ``None`` does not crop.
        mask: Function that returns the bytes of a mask file to use instead of the model; ``None`` to use the model.
        mask_name: File name of the mask.
        guide: Function that returns the bytes of a coarse mask file, for a model with guidance.
        guide_name: File name of the coarse mask.
        end: Deadline of the response, as a value of ``time.monotonic()``.
        request: ID of the request, for the log.
        abandoned: Set when the client has disconnected or the deadline has passed.
    """

    name: str
    read: Callable[[], bytes]
    model: str
    settings: Settings
    output: str
    format: str
    background: tuple[int, int, int] | Callable[[], bytes]
    background_name: str
    estimate_foreground: bool
    end: float
    crop: float | None = None
    mask: Callable[[], bytes] | None = None
    mask_name: str = ''
    guide: Callable[[], bytes] | None = None
    guide_name: str = ''
    request: str = '-'
    abandoned: threading.Event = field(default_factory=threading.Event)

    def check(self) -> None:
        """Raise :class:`Late` if the job is abandoned or its deadline has passed."""
        if self.abandoned.is_set() or time.monotonic() > self.end:
            raise Late


@dataclass
class Result:
    """Result of a job.

    Attributes:
        status: HTTP status.
        content: The encoded image, or the reason of the failure.
        share: Memory of the content, to be released after it is sent.
        box: (left, top, right, bottom) of the content in the image, in pixels, if it was cropped.
    """

    status: int
    content: bytes | str
    share: Share | None = None
    box: tuple[int, int, int, int] | None = None


class Pipeline:
    """Runs jobs in threads, as many in parallel as fit in memory.

    Args:
        inferencers: Models by name, each with one copy per device.
        limits: Limits on requests.
    """

    def __init__(self, inferencers: Mapping[str, Sequence[BiRefNetInferencer]], limits: Limits) -> None:
        self.inferencers, self.limits = dict(inferencers), limits
        self.budget = Budget(limits.work_bytes)
        self.predictor = Predictor(limits.batch, min(map(len, inferencers.values())))
        self._decoder = ImageDecoder(limits.decoders, limits.decode_seconds, limits.decode_bytes, limits.pixels)
        # Jobs also wait for memory inside this semaphore, so that few decoded images wait.
        self._decoding = threading.Semaphore(limits.decoders)
        self._threads = ThreadPoolExecutor(limits.queue, 'request')
        self._lock = threading.Lock()
        self.under_way = 0

    @property
    def is_full(self) -> bool:
        """Whether the queue is full."""
        return self.under_way >= self.limits.queue

    def submit(self, job: Job) -> Future[Result] | None:
        """Start a job; ``None`` if the queue is full."""
        with self._lock:
            if self.is_full:
                return None
            self.under_way += 1
        future = self._threads.submit(self._run, job)
        future.add_done_callback(self._leave)
        return future

    def start(self) -> None:
        """Start a decoder process, so that the first request does not wait for it."""
        self._decoder.read(encode_image(np.zeros((1, 1), np.uint8), 'png'), 'start')

    def close(self) -> None:
        """Stop the decoder processes."""
        self._decoder.close()

    def _leave(self, _: Future) -> None:
        with self._lock:
            self.under_way -= 1

    def _run(self, job: Job) -> Result:
        held: list[Share] = []
        try:
            content, box = self._answer(job, held)
            return Result(200, content, held.pop(), box)
        except Exception as error:
            result = Result(*_explain(error, job))
            _let_go(error)
        finally:
            for share in held:
                share.release()
        return result

    def _answer(self, job: Job, held: list[Share]) -> tuple[bytes, tuple[int, int, int, int] | None]:
        copies = self.inferencers[job.model]
        while not self._decoding.acquire(timeout=POLL_SECONDS):
            job.check()
        try:
            job.check()
            background = job.background
            if callable(background):
                background = self._decoder.read(background(), job.background_name)
            masks, mask_pixels = None, 0
            if job.mask is not None:
                mask = self._decoder.read(job.mask(), job.mask_name)
                masks, mask_pixels = MaskInferencer(mask), mask.rgb.size // 3
                del mask
            guides = None
            if job.guide is not None:
                copies[0].check_guide()
                guide = self._decoder.read(job.guide(), job.guide_name)
                guides, mask_pixels = MaskFiles(guide), guide.rgb.size // 3
                del guide
            image = self._decoder.read(job.read(), job.name)
            largest = LONGEST_SIDES.get(FORMATS[job.format][0])  # before the model runs
            if largest and max(image.size) > largest:
                height, width = image.size
                raise ValueError(
                    f'{job.name}: {width}x{height} pixels; format={job.format} allows sides up to '
                    f'{largest}. Fix: send format=png'
                )
            share = self.budget.take(self._cost(job, image, background, copies[0], mask_pixels), job.end)
        finally:
            self._decoding.release()
        held.append(share)
        job.check()
        if guides is not None:
            image = guides.attach(Source(image, Path(job.name), job.name), image)
            del guides
        if masks is None:
            alpha, device = self.predictor(copies, image, job)
        else:
            alpha, device = masks.predict_image(image, job.settings), None
            del masks
        job.check()
        pixels = compose(
            job.output,
            image,
            alpha,
            background,
            estimate_foreground=job.estimate_foreground,
            device=device,
        )
        box = None
        if job.crop is not None:
            rows, columns = box_of_object(opacity(image, alpha), job.crop)
            pixels = np.ascontiguousarray(pixels[rows, columns])
            box = columns.start, rows.start, columns.stop, rows.stop
        del alpha, background
        profile = None if job.output == 'mask' else image.icc_profile
        del image
        job.check()
        content = encode_image(pixels, job.format, profile, lossless=job.output != 'composite')
        share.shrink(len(content))
        return content, box

    def _cost(self, job: Job, image: LoadedImage, background, inferencer: BiRefNetInferencer, mask_pixels: int) -> int:
        on_cpu = inferencer.compose_device is None
        work = (
            ModelWork() if job.mask is not None else model_work(inferencer, image, job.settings, self.limits.input_size)
        )
        if work.pixels > self.limits.work * 1e6:
            raise TooCostly(
                f'needs {work.pixels / 1e6:.1f} megapixels of model input; the service allows {self.limits.work:g} per '
                'request (--max-work). Fix: send a smaller image or size, larger tiles, or fewer scales'
            )
        return cost(
            image.rgb.size // 3,
            job.output,
            job.format,
            job.estimate_foreground,
            background.rgb.size // 3 if isinstance(background, LoadedImage) else 0,
            work.run_pixels if on_cpu else 0,
            work.tiled_pixels,
            mask_pixels,
            job.settings.refine is not None,
        )


class Predictor:
    """Predicts for several threads in order of arrival, one batch per device at a time.

    Args:
        batch: Largest number of images in a batch; they share model and settings.
        devices: Number of devices.
    """

    def __init__(self, batch: int, devices: int = 1) -> None:
        self.batch = batch
        self.images = self.batches = 0
        self._changed = threading.Condition()
        self._idle = list(range(devices))
        self._waiting: list[_Waiting] = []

    def __call__(self, copies: Sequence[BiRefNetInferencer], image: LoadedImage, job: Job) -> tuple[np.ndarray, object]:
        """Predict the alpha of an image.

        Args:
            copies: The model on each device.
            image: The image.
            job: The request of the image.

        Returns:
            The alpha, float32 ``(H, W)``, and the torch device that estimates foreground colors; ``None`` for the CPU.

        Raises:
            Exception: As :meth:`BiRefNetInferencer.predict_images`.
            Late: If the job is abandoned or its deadline has passed.
        """
        mine = _Waiting(copies, image, job)
        with self._changed:
            self._waiting.append(mine)
        while True:
            with self._changed:
                # Another thread may already have taken this image into its batch.
                while not mine.is_done and not (self._idle and mine in self._waiting):
                    self._changed.wait(POLL_SECONDS)
                    if mine in self._waiting:
                        self._leave_if_late(mine)
                if mine.is_done:
                    break
                # A thread that finds an idle device also predicts for the threads that came before.
                device, group = self._idle.pop(0), self._next_group()
            try:
                self._predict([waiting for waiting in group if waiting.is_wanted()], device)
            finally:
                with self._changed:
                    self._idle.append(device)
                    for waiting in group:
                        waiting.is_done = True
                    self._changed.notify_all()
        if mine.error is not None:
            error, mine.error = mine.error, None
            raise error
        alpha, mine.alpha = mine.alpha, None
        return alpha, mine.compose_device

    def _leave_if_late(self, mine: _Waiting) -> None:
        if not mine.is_wanted():
            self._waiting.remove(mine)
            raise Late

    def _next_group(self) -> list[_Waiting]:
        """Remove the next batch from the queue: the oldest request, and others with its model and settings."""
        first = self._waiting[0]
        group = [
            other
            for other in self._waiting
            if other.copies is first.copies and other.job.settings == first.job.settings
        ][: self.batch]
        self._waiting = [other for other in self._waiting if other not in group]
        return group

    def _predict(self, group: list[_Waiting], device: int) -> None:
        if not group:
            return
        inferencer = group[0].copies[device]
        try:
            maps = inferencer.predict_images([waiting.image for waiting in group], group[0].job.settings)
        except Exception as error:
            _let_go(error)
            if len(group) == 1:
                group[0].error = error
                return
            maps = None
        if maps is None:  # one image failed, or the batch needs too much memory: predict one by one
            for waiting in group:
                self._predict([waiting], device)
            return
        with self._changed:
            self.batches += 1
            self.images += len(group)
        for waiting, alpha in zip(group, maps):
            waiting.alpha, waiting.compose_device = alpha, inferencer.compose_device


@dataclass(eq=False)
class _Waiting:
    copies: Sequence[BiRefNetInferencer]
    image: LoadedImage
    job: Job
    is_done: bool = False
    alpha: np.ndarray | None = None
    compose_device: object = None
    error: Exception | None = None

    def is_wanted(self) -> bool:
        """Whether the job is still wanted; otherwise set the error."""
        try:
            self.job.check()
        except Late as error:
            self.error = error
        return self.error is None


def _explain(error: Exception, job: Job) -> tuple[int, str]:
    """HTTP status and reason for an error."""
    if _is_out_of_memory(error):
        if (torch := sys.modules.get('torch')) and torch.cuda.is_initialized():
            torch.cuda.empty_cache()
        LOG.warning('%s out of memory: %s', job.request, error)
        return 503, f'{job.name}: the service ran out of memory. Fix: try again later, or send a smaller image or size'
    if isinstance(error, TooCostly):
        return 413, f'{job.name}: {error}'
    if isinstance(error, TooManyPixelsError):
        return 413, str(error)
    if isinstance(error, Late):
        return 503, 'busy: the result was not ready in time, try again later'
    if isinstance(error, (ValueError, OSError)):
        return 400, str(error)
    LOG.error('%s failed', job.request, exc_info=error)
    return 500, f'{job.name}: the prediction failed; the log of the service has the reason ({job.request})'


def _is_out_of_memory(error: Exception) -> bool:
    if isinstance(error, MemoryError) or type(error).__name__ == 'OutOfMemoryError':  # torch's
        return True
    # OpenCV, PyTorch on the CPU, and onnxruntime have no exception type for it.
    text = str(error)
    return any(words in text for words in ('Insufficient memory', "can't allocate memory", 'Failed to allocate memory'))


def _let_go(error: BaseException | None) -> None:
    """Release the local variables of an exception's frames, which would keep arrays until garbage collection."""
    while error is not None:
        if error.__traceback__ is not None:
            traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__
