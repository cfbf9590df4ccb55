"""Limits on requests, and the memory that requests share."""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass

from mmbirefnet.apis.inferencer import BiRefNetInferencer
from mmbirefnet.imaging.read import LoadedImage
from mmbirefnet.imaging.settings import Settings
from mmbirefnet.imaging.tiles import count_tiles

MIB = 2**20

# Peak bytes per pixel of an image in each step, measured; see docs/en/user_guides/server.md.
HELD = 8  # the image with its alpha, and the prediction
DECODING = 24
DECODED = 4
PREDICTING = 36
REFINING = 8  # in addition to PREDICTING
COMPOSING = {'mask': 4, 'cutout': 16, 'composite': 48}
CHANNELS = {'mask': 1, 'cutout': 4, 'composite': 3}
ENCODING = {'png': 0, 'jpg': 8, 'webp': 40}  # in addition to the pixels and two copies of the file
HEADER_BYTES = 256 * MIB  # for the header of a file, independent of the image size
TILE_BYTES = 160 * MIB  # foreground estimation works on tiles
MODEL = 1000  # per pixel of the model input, on the CPU
TILED = 8  # per pixel of an input that is predicted in tiles
MASK = 12  # per pixel of a mask in the request
LEAST_RUN = 2**16  # a run of the model counts as at least this many pixels: small tiles take longer per pixel


class TooCostly(Exception):
    """The request needs more memory or work than the service allows for one request."""


class Late(Exception):
    """The client has disconnected, or the deadline has passed."""


@dataclass(frozen=True)
class Limits:
    """Limits on requests.

    Attributes:
        upload_bytes: Largest body of a request.
        upload_seconds: Time limit for a body to arrive.
        megapixels: Largest image.
        input_size: Longest side of the model input, in pixels.
        work: Megapixels of model input per request, summed over views, tiles and passes.
        queue: Number of requests that wait or are processed after their body arrived; further ones get status 429.
        memory: Bytes that all requests together may use, in addition to the memory of the idle service.
        decoders: Number of processes that decode images.
        decode_seconds: Time limit for decoding one image.
        seconds: Time limit from the end of an upload to the response.
        batch: Number of waiting requests with equal settings that are predicted as one batch.

    Raises:
        ValueError: If a limit is not positive and finite, or the memory is too small for the other limits.
    """

    upload_bytes: int = 32 * MIB
    upload_seconds: float = 30.0
    megapixels: float = 50.0
    input_size: int = 2048
    work: float = 32.0
    queue: int = 8
    memory: int = 8192 * MIB
    decoders: int = 1
    decode_seconds: float = 10.0
    seconds: float = 120.0
    batch: int = 1

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 < value < float('inf'):
                raise ValueError(f'{name}={value!r}, must be more than 0 and finite')
        least = self.memory - self.work_bytes + self.pixels * (HELD + PREDICTING)
        if self.memory < least:
            raise ValueError(
                f'memory={self.memory // MIB} MiB, must be at least {-(-least // MIB)} MiB for images of '
                f'{self.megapixels:g} megapixels and uploads of {self.upload_bytes / MIB:g} MiB. '
                'Fix: raise it, or lower megapixels or upload_bytes'
            )

    @property
    def pixels(self) -> int:
        """Largest image, in pixels."""
        return int(self.megapixels * 1e6)

    @property
    def decode_bytes(self) -> int:
        """Memory that decoding one image may use."""
        return HEADER_BYTES + self.pixels * DECODING

    @property
    def uploads(self) -> int:
        """Bytes of all bodies that have arrived or are arriving: an eighth of the memory, but at least two bodies."""
        return max(self.memory // 8, 2 * self.upload_bytes)

    @property
    def work_bytes(self) -> int:
        """Memory for prediction, composition and encoding: the rest after uploads and decoders.

        Each decoder holds two copies of an upload, and a decoded image, background and mask.
        """
        decoder = self.decode_bytes + 3 * DECODED * self.pixels + 2 * self.upload_bytes
        return self.memory - self.uploads - self.decoders * decoder


def cost(
    pixels: int,
    output: str,
    format: str,
    estimate_foreground: bool = False,
    background_pixels: int = 0,
    model_pixels: int = 0,
    tiled_pixels: int = 0,
    mask_pixels: int = 0,
    refined: bool = False,
) -> int:
    """Peak memory of a request after decoding, in bytes.

    Args:
        pixels: Pixels of the image.
        output: ``'mask'``, ``'cutout'`` or ``'composite'``.
        format: ``'png'``, ``'webp'`` or ``'jpg'``.
        estimate_foreground: Whether to estimate the object's own colors at the edges.
        background_pixels: Pixels of the background image.
        model_pixels: Pixels of the model input if the model runs on the CPU, otherwise 0.
        tiled_pixels: Pixels of an input that is predicted in tiles.
        mask_pixels: Pixels of a mask that replaces the model.
        refined: Whether to refine edges.
    """
    predicting = pixels * (PREDICTING + REFINING * refined) + model_pixels * MODEL + tiled_pixels * TILED
    composing = pixels * COMPOSING[output] + (TILE_BYTES if estimate_foreground and output != 'mask' else 0)
    encoding = pixels * (3 * CHANNELS[output] + ENCODING[format])
    return pixels * HELD + background_pixels * 8 + mask_pixels * MASK + max(predicting, composing, encoding)


@dataclass(frozen=True)
class ModelWork:
    """Work of the model for a request.

    Attributes:
        run_pixels: Pixels of the largest input of a single run.
        tiled_pixels: Pixels of the largest input that is predicted in tiles; 0 without tiles.
        pixels: Pixels of all inputs together; each run counts as at least ``LEAST_RUN``.
    """

    run_pixels: int = 0
    tiled_pixels: int = 0
    pixels: int = 0


def model_work(inferencer: BiRefNetInferencer, image: LoadedImage, settings: Settings, longest: int) -> ModelWork:
    """Compute the memory and work of a prediction before it runs.

    Args:
        inferencer: The model.
        image: The image.
        settings: Options of the prediction.
        longest: Longest allowed side of the model input; the training size of the model is always allowed.

    Raises:
        ValueError: If the model input would have a longer side, or the box lies outside the image.
    """
    backend = inferencer.backend
    sizes = inferencer.input_sizes(image, settings)
    run = tiled = total = 0
    for size in sizes:
        tile = settings.tile
        if tile is not None and max(size) > tile:
            runs, shape = count_tiles(size, tile, settings.overlap), [min(side, tile) for side in size]
            tiled = max(tiled, size[0] * size[1])
        else:
            runs, shape = 1, list(size)
        if max(shape) > max(longest, *backend.input_size):
            raise ValueError(
                f'{image.name}: the model input would be {size[0]}x{size[1]} (height x width); the service allows '
                f'sides up to {longest}. Fix: send a smaller size, scales or tile'
            )
        run = max(run, shape[0] * shape[1])
        total += runs * max(LEAST_RUN, shape[0] * shape[1])
    if settings.two_pass and sizes:
        # The crop of the second pass is not known yet. Its input is at most as large as that of the first pass, the
        # training size, or the longest narrow input of a dynamic size.
        side_range = getattr(backend, 'side_range', None)
        narrow = side_range[0] * min(side_range[1], settings.max_size) if side_range else 0
        scale = max(settings.scales) ** 2
        again = round(scale * max(narrow, backend.input_size[0] * backend.input_size[1]))
        run, total = max(run, again), total + max(total, again * len(settings.scales))
    return ModelWork(run, tiled, total * (1 + settings.flip))


class Budget:
    """Memory that requests reserve in order of arrival, and release after use.

    Args:
        total: Bytes.
    """

    def __init__(self, total: int) -> None:
        self.total = self.free = total
        self._changed = threading.Condition()
        self._line: deque = deque()

    @property
    def taken(self) -> int:
        """Bytes in use."""
        return self.total - self.free

    def take(self, amount: int, end: float) -> Share:
        """Reserve memory, after waiting until it is free.

        Args:
            amount: Bytes.
            end: Deadline, as a value of ``time.monotonic()``.

        Raises:
            TooCostly: If ``amount`` exceeds the total.
            Late: If the memory was not free in time.
        """
        if amount > self.total:
            raise TooCostly(
                f'needs {-(-amount // MIB)} MiB of memory; the service may use {self.total // MIB} MiB. Fix: send a '
                'smaller image or size, or estimate_foreground=false'
            )
        ticket = object()
        with self._changed:
            self._line.append(ticket)
            try:
                while self._line[0] is not ticket or self.free < amount:
                    if not self._changed.wait(max(0.0, end - time.monotonic())) and time.monotonic() >= end:
                        raise Late
                self.free -= amount
            finally:
                self._line.remove(ticket)
                self._changed.notify_all()
        return Share(self, amount)

    def give_back(self, amount: int) -> None:
        """Release memory."""
        with self._changed:
            self.free += amount
            self._changed.notify_all()


class Share:
    """Memory that one request has reserved."""

    def __init__(self, budget: Budget, amount: int) -> None:
        self._budget, self.amount = budget, amount

    def shrink(self, amount: int) -> None:
        """Release all but ``amount`` bytes."""
        amount = min(amount, self.amount)
        self._budget.give_back(self.amount - amount)
        self.amount = amount

    def release(self) -> None:
        """Release all of it."""
        self.shrink(0)
