"""Predict images, and write masks, cut-outs and composites."""

from __future__ import annotations

import itertools
import os
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np

from mmbirefnet.imaging.maps import blend_crop, box_to_predict_again, crop_of_box, process_map, resize_map, to_uint8
from mmbirefnet.imaging.masks import MaskFiles
from mmbirefnet.imaging.read import LoadedImage, LoadedSequence
from mmbirefnet.imaging.refine import refine_map
from mmbirefnet.imaging.settings import Settings
from mmbirefnet.imaging.sources import Source, describe_left_out, is_single, is_video, list_sources
from mmbirefnet.imaging.tiles import predict_in_tiles
from mmbirefnet.imaging.urls import MAX_BYTES
from mmbirefnet.utils.deprecation import former_argument, warn_renamed
from mmbirefnet.utils.prefetch import prefetch

from .backend import Backend, is_checkpoint, make_backend

if TYPE_CHECKING:
    from mmbirefnet.imaging.sandbox import ImageDecoder

OnError = Callable[[Source, Exception], None]


class Prediction(NamedTuple):
    """An image and its prediction."""

    source: Source
    image: LoadedImage | LoadedSequence
    soft_map: np.ndarray | list[np.ndarray]
    """Probability of the foreground, float32 ``(H, W)`` at the size of the image; for a sequence, one per frame."""
    seconds: float = 0.0
    """Time of the prediction; the mean over the images of a batch."""


class BiRefNetInferencer:
    """Predicts soft maps, and writes masks, cut-outs and composites.

    It is called like mmseg's inferencer, but is not a subclass of it: with an ONNX model it needs neither torch nor
    the OpenMMLab packages.

    Args:
        model: Name of a released model (``'BiRefNet_HR'``) or any other form of ``weights``, whose architecture is
            then inferred from the parameters; or a config file, the name of a config of this project, a ``Config``,
            a model, or an ``.onnx`` file.
        weights: Checkpoint, of this project or released: a file, a folder, the name of a released model, a Hugging
            Face id or a URL, see :func:`mmbirefnet.zoo.download.fetch`. Only tensors are unpickled. By default the one
            in the environment variable ``MMBIREFNET_CHECKPOINT``, or ``'BiRefNet'`` if there is no config. Not needed
            with a model or an ONNX file.
        device: For example ``'cuda:1'``; ``None`` for a GPU if there is one, otherwise the CPU.
        dtype: ``'float32'``, or ``'bfloat16'`` or ``'float16'`` for mixed precision, or ``'auto'`` for bfloat16 on
            a CPU with AVX512-BF16 or AMX and float32 elsewhere. An ONNX file has its own dtype.
        fuse: Whether to fuse layers, which is faster. Predictions are equal up to rounding.
        backend: Callable to use instead of the arguments above: it takes uint8 RGB ``(N, H, W, 3)``, returns float32
            ``(N, H, W)``, and has the attributes of :class:`~mmbirefnet.apis.backend.Backend`.
        providers: Execution providers of onnxruntime, for an ONNX model.
        crop_order: Order of the crops that a released checkpoint was trained with: ``'rows'``, ``'columns'``, or
            ``'auto'`` to detect it, see :func:`mmbirefnet.utils.convert_birefnet_state_dict`.

    Raises:
        FileNotFoundError: If a file does not exist.
        ValueError: If the checkpoint does not fit, or an option is invalid.
    """

    backend: Backend

    def __init__(
        self,
        model=None,
        weights: str | os.PathLike | None = None,
        device: str | None = None,
        dtype: str = 'float32',
        fuse: bool = True,
        *,
        backend: Callable[[np.ndarray], np.ndarray] | None = None,
        providers: list | None = None,
        crop_order: str = 'auto',
    ) -> None:
        if isinstance(model, (str, os.PathLike)) and not weights and is_checkpoint(model):
            model, weights = None, model
        self.backend = backend or make_backend(model, weights, device, dtype, fuse, providers, crop_order)

    def __call__(
        self,
        inputs,
        out_dir: str | os.PathLike | None = None,
        *,
        save: str | Iterable[str] | None = None,
        dtype: str = 'float32',
        channel_order: str = 'bgr',
        workers: int = 2,
        estimate_foreground: bool = True,
        background=None,
        format: str | None = None,
        overwrite: bool = True,
        batch_size: int = 1,
        input_size: int | Sequence[int] | str | None = None,
        max_size: int = 2560,
        flip: bool = False,
        scales: Sequence[float] = (1.0,),
        box: Sequence[float] | None = None,
        margin: float = 0.1,
        threshold: float | None = None,
        min_area: float = 0,
        levels: Sequence[float] | None = None,
        largest: bool = False,
        fill_holes: bool = False,
        grow: int = 0,
        feather: float = 0,
        invert: bool = False,
        refine: str | None = None,
        tile: int | None = None,
        tile_overlap: int | None = None,
        two_pass: bool = False,
        crop: float | None = None,
        max_pixels: int | None = None,
        decoder: ImageDecoder | None = None,
        frames: str = 'first',
        recursive: bool = True,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        limit: int | None = None,
        max_bytes: int = MAX_BYTES,
        allow_private_urls: bool = False,
        report: str | os.PathLike | None = None,
        guide=None,
        output: str | None = None,
        foreground: bool | None = None,
    ):
        """Predict images, and write files if ``out_dir`` is given.

        Args:
            inputs: Path, folder (with subfolders), glob, URL, content of a file as bytes, array, PIL image, or a list
                of these.
            out_dir: Folder to write to. Subfolders of ``inputs`` are kept.
            save: Outputs to write: ``'mask'`` (gray), ``'cutout'`` (RGBA), ``'composite'`` (the object on
                ``background``, RGB), or several of them, each in a folder of its name. By default the cut-out, or the
                composite if there is a background.
            dtype: ``'float32'`` returns probabilities, ``'uint8'`` gray levels, trunc(255 p).
            channel_order: Order of the channels of arrays: ``'bgr'`` as in OpenCV and mmseg, or ``'rgb'``.
            workers: Number of threads that read images ahead, and of threads that write.
            estimate_foreground: Whether to estimate the object's own colors at the edges of ``'cutout'`` and
                ``'composite'``. If false, a fringe of the old background stays.
            background: Color (``'#rrggbb'`` or a name) or image behind ``'composite'``; white by default.
            format: Suffix of the files, such as ``'webp'``. By default png for masks and cut-outs, and the format of
                the input for composites, animations and files with pages.
            overwrite: Whether existing files may be replaced.
            batch_size: Images per batch; images of different input sizes are in different batches.
            input_size: Size that the image is resized to for the model: ``None`` for the size that the model was
                trained at, the side of a square, (height, width), or ``'image'`` for the size of the image, rounded to
                multiples of 32. In pixels.
            max_size: Limit for the longer side with ``input_size='image'``, in pixels; the aspect ratio is kept.
            flip: Whether to average with the prediction of the mirrored image.
            scales: Factors of the input size. The predictions are averaged.
            box: (left, top, right, bottom) in pixels of the upright image: the map is 0 outside.
            margin: Context around the box that the model sees, as a fraction of the sides of the box.
            threshold: Makes the map binary: 1 where it exceeds this value.
            min_area: Removes components with a smaller area: in pixels, or if below 1 as a fraction of the image.
            levels: (low, high): the map becomes 0 up to ``low``, 1 from ``high`` on, and linear between.
            largest: Whether to keep only the largest component.
            fill_holes: Whether to fill holes in objects.
            grow: Pixels to grow the object by; a negative number shrinks it.
            feather: Standard deviation, in pixels, of a Gaussian that softens the edge.
            invert: Whether to swap object and background. For the order of all operations on the map see
                :class:`~mmbirefnet.imaging.settings.Settings`.
            refine: Refines uncertain edges with the colors of the image: ``'guided'`` or ``'closed-form'``.
            tile: Side of tiles in pixels, a multiple of 32: images with a longer side are predicted at their original
                size in overlapping tiles. The model sees only one tile at a time.
            tile_overlap: Pixels that neighboring tiles share; by default a quarter of ``tile``.
            two_pass: For small objects in large images: whether to locate the object first, and to predict it again in
                a crop with ``margin`` around it.
            crop: Crops files to the object, with a margin given as a fraction of its sides. ``<file>.json`` contains
                the box. The returned maps are not cropped.
            max_pixels: Largest image to read, in pixels; ``None`` for Pillow's limit, 179 million.
            decoder: Reads untrusted files in worker processes with limits, among them its own ``max_pixels``; see
                :class:`~mmbirefnet.imaging.sandbox.ImageDecoder`. ``None`` reads them in this process.
            frames: ``'all'`` predicts all frames of an animation and pages of a TIFF file, ``'first'`` only the first.
            recursive: Whether to search subfolders.
            include: Patterns such as ``'*.jpg'``: in folders and globs, only files that match one of them are used; see
                :func:`~mmbirefnet.imaging.sources.list_sources`.
            exclude: Patterns of files to leave out.
            limit: Largest number of images to predict; ``None`` for all.
            max_bytes: Largest file to read from a URL, in bytes.
            allow_private_urls: Whether URLs may have addresses that are not public, see
                :func:`mmbirefnet.imaging.urls.read_url`.
            report: JSON file to write, with a record for each image, see :class:`~mmbirefnet.apis.job.Report`.
            guide: Coarse mask of the object for a model with guidance (:class:`~mmbirefnet.models.GuidedBiRefNet`):
                one image for all inputs, or a folder with one for each, see
                :class:`~mmbirefnet.imaging.masks.MaskFiles`.
            output: Former name of ``dtype``.
            foreground: Former name of ``estimate_foreground``.

        Returns:
            For one image its map ``(H, W)`` at the original size, otherwise a list of maps. With ``frames='all'``, the
            entry of a file with several frames or pages is itself a list.

        Raises:
            ValueError: If an option is out of range, ``inputs`` is a video, or the model does not accept ``guide``.
            OSError, TypeError: If an image cannot be read or written.
        """
        dtype = former_argument('output', output, 'dtype', dtype)
        estimate_foreground = former_argument('foreground', foreground, 'estimate_foreground', estimate_foreground)
        if dtype not in ('float32', 'uint8'):
            raise ValueError(f"dtype={dtype!r}, must be 'float32' or 'uint8'")
        check_frames(frames)
        settings = Settings(
            input_size,
            max_size,
            batch_size,
            flip,
            scales,
            box,
            margin,
            threshold,
            min_area,
            levels,
            largest,
            fill_holes,
            grow,
            feather,
            invert,
            refine,
            tile,
            tile_overlap,
            two_pass,
        )
        if is_video(inputs):
            raise ValueError(f'{inputs}: is a video. Fix: use the command mmbirefnet video, or mmbirefnet.video')
        from .job import ImageJob

        writer = None
        if out_dir is not None:
            from mmbirefnet.imaging.write import OutputWriter

            writer = OutputWriter(
                out_dir,
                save,
                estimate_foreground,
                background,
                format,
                overwrite,
                max_pixels=max_pixels,
                crop=crop,
            )
        left_out: list[Path] = []
        sources = list_sources(
            inputs,
            Path(out_dir) if out_dir is not None else None,
            left_out,
            recursive=recursive,
            include=include,
            exclude=exclude,
            max_bytes=max_bytes,
            allow_private_urls=allow_private_urls,
        )
        if left_out:
            warnings.warn(f'{len(sources)} images{describe_left_out(left_out)}', stacklevel=2)
        job = ImageJob(
            self,
            writer,
            settings,
            workers=workers,
            channel_order=channel_order,
            decoder=decoder,
            max_pixels=max_pixels,
            frames=frames,
            records=report is not None,
            guide=guide,
        )
        try:
            maps = [prediction.soft_map for prediction in job.run(job.plan(sources, limit=limit))]
        finally:
            if report is not None:
                job.report.save(report)
        if dtype == 'uint8':
            maps = [list(map(to_uint8, each)) if isinstance(each, list) else to_uint8(each) for each in maps]
        return maps[0] if is_single(inputs) else maps

    def predict(
        self,
        inputs,
        settings: Settings | None = None,
        *,
        on_error: OnError | None = None,
        channel_order: str = 'bgr',
        workers: int = 2,
        max_pixels: int | None = None,
        decoder: ImageDecoder | None = None,
        frames: str = 'first',
        guide=None,
    ) -> Iterator[Prediction]:
        """Predict images in order, with few of them in memory at a time.

        Args:
            inputs: As for a call, without videos.
            settings: Options of the prediction.
            on_error: Called with the source and the error of each image that cannot be read or predicted; the job
                continues. By default the first error is raised.
            channel_order: Order of the channels of arrays.
            workers: Number of threads that read ahead.
            max_pixels: Largest image to read in this process, in pixels.
            decoder: Reads files in worker processes.
            frames: ``'first'`` or ``'all'`` frames or pages of a file.
            guide: Coarse masks, as for a call.

        Yields:
            Predictions, without images that failed.
        """
        settings = settings or Settings()
        check_frames(frames)
        options = (channel_order, decoder, max_pixels, frames)
        if guide is None:
            images = prefetch(lambda source: source.read(*options), list_sources(inputs), workers)
        else:
            self.check_guide()
            guides = MaskFiles(guide, decoder, channel_order)
            images = prefetch(
                lambda source: guides.attach(source, source.read(*options)), list_sources(inputs), workers
            )
        while batch := list(itertools.islice(images, settings.batch_size)):
            read = []
            for source, image, error in batch:
                if error is None:
                    read.append((source, image))
                elif on_error is None:
                    images.close()
                    del images, batch, read, image  # the error keeps this frame, and so these objects, in memory
                    try:
                        raise error
                    finally:
                        del error
                else:
                    on_error(source, error)
            yield from self._predict_batch(read, settings, on_error)

    def check_guide(self) -> None:
        """Raise ``ValueError`` if the model does not accept a coarse mask."""
        if not getattr(self.backend, 'takes_guide', False):
            raise ValueError(
                f'guide: {self.backend.name} takes no coarse mask. Fix: leave it out, or fine-tune a model with the '
                'recipe guided'
            )

    @property
    def compose_device(self):
        """Torch device that estimates foreground colors: the model's GPU, or ``None`` for OpenCV on the CPU."""
        device = getattr(self.backend, 'device', None)
        return device if getattr(device, 'type', 'cpu') != 'cpu' else None

    @property
    def foreground_device(self):
        """Former name of :attr:`compose_device`."""
        warn_renamed('foreground_device', 'compose_device')
        return self.compose_device

    def input_sizes(self, image: LoadedImage, settings: Settings) -> list[tuple[int, int]]:
        """Sizes (H, W) of the model's inputs for an image, one for each scale."""
        rows, columns = _region(image, settings)[0]
        return self._sizes_of((rows.stop - rows.start, columns.stop - columns.start), settings)

    def _sizes_of(self, shape: tuple[int, int], settings: Settings) -> list[tuple[int, int]]:
        return settings.sizes(shape, self.backend.input_size, getattr(self.backend, 'side_range', None))

    def predict_image(self, image: LoadedImage, settings: Settings | None = None) -> np.ndarray:
        """Return the map of one image, float32 ``(H, W)``."""
        return self.predict_images([image], settings)[0]

    def predict_images(self, images: list[LoadedImage], settings: Settings | None = None) -> list[np.ndarray]:
        """Return the maps of images, each float32 ``(H, W)``. Images of the same input size are in one batch."""
        settings = settings or Settings()
        regions = [_region(image, settings) for image in images]
        names = [image.name for image in images]
        if any(image.guide is not None for image in images):
            self.check_guide()
        crops = [_channels(image)[outer] for image, (outer, _) in zip(images, regions)]
        maps = self._predict_crops(names, crops, settings)
        if settings.two_pass:
            self._predict_objects(names, crops, maps, settings)
        return [_finish(soft_map, image, region, settings) for soft_map, image, region in zip(maps, images, regions)]

    def _predict_objects(self, names: list[str], crops: list[np.ndarray], maps: list[np.ndarray], settings: Settings):
        """Predict a crop around each located object again, and blend it into the maps in place."""
        found = [box_to_predict_again(soft_map, settings.margin) for soft_map in maps]
        again = [index for index, box in enumerate(found) if box is not None]
        closer = self._predict_crops([names[k] for k in again], [crops[k][found[k]] for k in again], settings)
        for index, soft_map in zip(again, closer):
            blend_crop(maps[index], soft_map, found[index], settings.margin)

    def _predict_crops(self, names: list[str], crops: list[np.ndarray], settings: Settings) -> list[np.ndarray]:
        """Return the maps of uint8 ``(H, W, C)`` arrays, float32 ``(H, W)``, averaged over the scales."""
        sums = [np.zeros(crop.shape[:2], np.float32) for crop in crops]
        groups = defaultdict(list)  # input size and channels: images
        for index, crop in enumerate(crops):
            for size in self._sizes_of(crop.shape[:2], settings):
                groups[size, crop.shape[2]].append(index)
        for (size, _), members in groups.items():
            for index, soft_map in zip(members, self._run_size([crops[index] for index in members], size, settings)):
                if not np.isfinite(soft_map).all():
                    raise ValueError(
                        f'{names[index]}: {self.backend.name} predicts NaN or Inf: damaged parameters, '
                        'or numbers too large for float16. Fix: use bfloat16 or float32'
                    )
                sums[index] += resize_map(soft_map, sums[index].shape)
        views = len(settings.scales)
        return [total / views if views > 1 else total for total in sums]

    def _run_size(self, crops: list[np.ndarray], size: tuple[int, int], settings: Settings) -> Iterator[np.ndarray]:
        """Yield the maps at an input size, predicted whole or in tiles."""
        tile = settings.tile
        if tile is None or max(size) <= tile:
            self._check_size(size)
            yield from self._run(np.stack([cv2.resize(crop, size[::-1]) for crop in crops]), settings.flip)
            return
        self._check_size(tuple(min(side, tile) for side in size))
        for crop in crops:
            crop = crop if crop.shape[:2] == size else cv2.resize(crop, size[::-1])
            yield predict_in_tiles(lambda images: list(self._run(images, settings.flip)), crop, tile, settings.overlap)

    def _predict_batch(
        self, batch: list[tuple[Source, LoadedImage]], settings: Settings, on_error: OnError | None
    ) -> Iterator[Prediction]:
        start = time.perf_counter()
        try:
            maps = self.predict_batch(batch, settings)
        except Exception as error:
            if on_error is None:
                raise
            if len(batch) == 1:
                on_error(batch[0][0], error)
                return
            # One image is faulty, or the batch does not fit in memory: predict them one by one.
            for pair in batch:
                yield from self._predict_batch([pair], replace(settings, batch_size=1), on_error)
            return
        seconds = (time.perf_counter() - start) / max(1, len(batch))
        for (source, image), soft_map in zip(batch, maps):
            yield Prediction(source, image, soft_map, seconds)

    def predict_batch(
        self, batch: list[tuple[Source, LoadedImage | LoadedSequence]], settings: Settings
    ) -> list[np.ndarray | list[np.ndarray]]:
        """Return the maps of images and sequences, at most ``settings.batch_size`` frames at a time."""
        frames = [frame for _, image in batch for frame in _frames(image)]
        step = settings.batch_size
        maps = itertools.chain.from_iterable(
            self.predict_images(frames[start : start + step], settings) for start in range(0, len(frames), step)
        )
        return [
            list(itertools.islice(maps, len(image.frames))) if isinstance(image, LoadedSequence) else next(maps)
            for _, image in batch
        ]

    def _run(self, inputs: np.ndarray, flip: bool) -> Iterator[np.ndarray]:
        step = self.backend.max_batch or len(inputs)
        for start in range(0, len(inputs), step):
            images = inputs[start : start + step]
            maps = self.backend(images)
            if flip:
                maps = (maps + self.backend(np.ascontiguousarray(images[:, :, ::-1]))[:, :, ::-1]) / 2
            yield from maps

    def _check_size(self, size: tuple[int, int]) -> None:
        if self.backend.fixed_size and size != tuple(self.backend.input_size):
            raise ValueError(
                f'{self.backend.name}: takes only images of {"x".join(map(str, self.backend.input_size))} (height x '
                f'width), not {"x".join(map(str, size))}. Fix: leave out input_size and scales'
            )


def _frames(image: LoadedImage | LoadedSequence) -> list[LoadedImage]:
    return image.frames if isinstance(image, LoadedSequence) else [image]


def check_frames(frames: str) -> None:
    """Raise ``ValueError`` if ``frames`` is invalid."""
    if frames not in ('first', 'all'):
        raise ValueError(f"frames={frames!r}, must be 'first' or 'all'")


def _channels(image: LoadedImage) -> np.ndarray:
    """Return the input of the model, uint8 ``(H, W, 3)``, or ``(H, W, 4)`` with the coarse mask as the last channel."""
    return image.visible() if image.guide is None else np.dstack([image.visible(), image.guide])


def _region(image: LoadedImage, settings: Settings):
    if settings.box is None:
        whole = tuple(slice(0, side) for side in image.size)
        return whole, whole
    return crop_of_box(settings.box, settings.margin, image.size, image.name)


def _finish(soft_map: np.ndarray, image: LoadedImage, region, settings: Settings) -> np.ndarray:
    outer, inner = region
    if settings.refine is not None:
        soft_map = refine_map(image.visible()[outer], soft_map, settings.refine)
    if soft_map.shape != image.size or outer != inner:
        whole = np.zeros(image.size, np.float32)
        whole[outer] = soft_map
        soft_map = np.zeros_like(whole)
        soft_map[inner] = whole[inner]
    return process_map(soft_map, settings)
