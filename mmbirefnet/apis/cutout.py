"""Remove the background of an image in one call."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from mmbirefnet.apis.inferencer import BiRefNetInferencer
from mmbirefnet.apis.masks import MaskInferencer
from mmbirefnet.imaging.compose import cut_out
from mmbirefnet.imaging.masks import MaskFiles
from mmbirefnet.imaging.read import load_image
from mmbirefnet.imaging.settings import Settings
from mmbirefnet.imaging.sources import Source
from mmbirefnet.imaging.urls import MAX_BYTES, is_url, read_url
from mmbirefnet.utils.deprecation import former_argument
from mmbirefnet.zoo.weights import DEFAULT_MODEL

KEPT_MODELS = 2
_lock = threading.Lock()  # otherwise two threads could load the same model twice


def remove_background(
    image: str | os.PathLike | bytes | BinaryIO | np.ndarray | Image.Image,
    model: str | os.PathLike | BiRefNetInferencer = DEFAULT_MODEL,
    *,
    device: str | None = None,
    dtype: str = 'float32',
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
    mask: str | os.PathLike | bytes | np.ndarray | Image.Image | None = None,
    guide: str | os.PathLike | bytes | np.ndarray | Image.Image | None = None,
    tile: int | None = None,
    tile_overlap: int | None = None,
    two_pass: bool = False,
    estimate_foreground: bool = True,
    channel_order: str = 'rgb',
    max_pixels: int | None = None,
    max_bytes: int = MAX_BYTES,
    allow_private_urls: bool = False,
    foreground: bool | None = None,
) -> Image.Image:
    """Remove the background of one image.

    The model is downloaded on first use. The two models used last (by ``model``, ``device`` and ``dtype``) are kept in
    memory between calls. For many images, :class:`BiRefNetInferencer` is faster.

    Args:
        image: Path, URL (``http://`` or ``https://``), content of a file as bytes, open binary file, PIL image, or
            array ``(H, W)``, ``(H, W, 1)``, ``(H, W, 3)`` or ``(H, W, 4)`` of uint8, uint16, or floats in [0, 1].
        model: Name of a released model, Hugging Face id, URL, file or folder, see :func:`mmbirefnet.zoo.fetch`; or a
            :class:`BiRefNetInferencer`, for other configs and backends; it has its own device and dtype.
        device: For example ``'cuda:1'``; ``None`` for a GPU if there is one, otherwise the CPU.
        dtype: ``'float32'``, or ``'bfloat16'`` or ``'float16'`` for mixed precision; ``'auto'`` for bfloat16 on a CPU
            with AVX512-BF16 or AMX, and float32 elsewhere.
        input_size: Size that the image is resized to for the model: ``None`` for the size that the model was trained
            at, the side of a square, (height, width), or ``'image'`` for the size of the image, rounded to multiples
            of 32. In pixels.
        max_size: Limit for the longer side with ``input_size='image'``, in pixels.
        flip: Whether to average with the prediction of the mirrored image.
        scales: Factors of the input size. The predictions are averaged.
        box: (left, top, right, bottom) in pixels of the upright image: alpha is 0 outside.
        margin: Context around the box that the model sees, as a fraction of the sides of the box.
        threshold: Makes alpha binary: opaque where the probability exceeds this value.
        min_area: Removes components with a smaller area: in pixels, or if below 1 as a fraction of the image.
        levels: (low, high): alpha becomes 0 up to ``low``, 1 from ``high`` on, and linear between.
        largest: Whether to keep only the largest component.
        fill_holes: Whether to fill holes in objects.
        grow: Pixels to grow the object by; a negative number shrinks it.
        feather: Standard deviation, in pixels, of a Gaussian that softens the edge.
        invert: Whether to swap object and background.
        refine: Refines uncertain edges with the colors of the image: ``'guided'`` or ``'closed-form'``. For the order
            of all operations on alpha see :class:`~mmbirefnet.imaging.settings.Settings`.
        mask: Existing mask to use instead of a model: path, bytes, array or PIL image, see
            :class:`~mmbirefnet.apis.masks.MaskInferencer`. No model is loaded.
        guide: Coarse mask of the object, in the same forms, for a model with guidance
            (:class:`~mmbirefnet.models.GuidedBiRefNet`).
        tile: Side of tiles in pixels, a multiple of 32: images with a longer side are predicted at their original size
            in overlapping tiles. The model sees only one tile at a time.
        tile_overlap: Pixels that neighboring tiles share; by default a quarter of ``tile``.
        two_pass: For small objects in large images: whether to locate the object first, and to predict it again in a
            crop with ``margin`` around it.
        estimate_foreground: Whether to estimate the object's own colors at the edges. If false, a fringe of the old
            background stays.
        channel_order: Order of the channels of arrays: ``'rgb'`` as in Pillow, or ``'bgr'`` as in OpenCV.
        max_pixels: Largest image to decode from a file, in pixels; ``None`` for Pillow's limit, 179 million.
        max_bytes: Largest file to read from a URL, in bytes.
        allow_private_urls: Whether URLs may have addresses that are not public, see
            :func:`mmbirefnet.imaging.urls.read_url`.
        foreground: Former name of ``estimate_foreground``.

    Returns:
        RGBA image at the original size, upright, with the color profile of the input.

    Raises:
        OSError: If the image or the model cannot be read or downloaded.
        ValueError: If an option is invalid, or the image is too large.
        TypeError: If the image has an unsupported type.
        ImportError: If a package is missing. The message ends with the command that installs it.
    """
    estimate_foreground = former_argument('foreground', foreground, 'estimate_foreground', estimate_foreground)
    settings = Settings(
        input_size=input_size,
        max_size=max_size,
        flip=flip,
        scales=scales,
        box=box,
        margin=margin,
        threshold=threshold,
        min_area=min_area,
        levels=levels,
        largest=largest,
        fill_holes=fill_holes,
        grow=grow,
        feather=feather,
        invert=invert,
        refine=refine,
        tile=tile,
        tile_overlap=tile_overlap,
        two_pass=two_pass,
    )
    name = None
    if is_url(image):
        image, name = read_url(image, max_bytes=max_bytes, allow_private=allow_private_urls), image
    loaded = load_image(image, name, channel_order, max_pixels)
    if mask is not None:
        inferencer = MaskInferencer(mask, channel_order=channel_order)
    elif isinstance(model, BiRefNetInferencer):
        inferencer = model
    else:
        with _lock:
            inferencer = cached_inferencer(os.fspath(model), device, dtype)
    if guide is not None:
        source = Source(loaded, Path(loaded.name), loaded.name)
        loaded = MaskFiles(guide, channel_order=channel_order).attach(source, loaded)
    alpha = inferencer.predict_image(loaded, settings)
    cutout = Image.fromarray(cut_out(loaded, alpha, estimate_foreground, inferencer.compose_device))
    if loaded.icc_profile:
        cutout.info['icc_profile'] = loaded.icc_profile  # Pillow writes it into the file
    return cutout


@functools.lru_cache(maxsize=KEPT_MODELS)
def cached_inferencer(model: str, device: str | None, dtype: str) -> BiRefNetInferencer:
    return BiRefNetInferencer(model, device=device, dtype=dtype)
