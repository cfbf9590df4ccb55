"""Background removal in one call."""

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
_lock = threading.Lock()  # two threads that ask for a new model would load it twice


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

    The model is downloaded on first use. The last two models are kept between calls, by ``model``, ``device`` and
    ``dtype``; for many images :class:`BiRefNetInferencer` is faster.

    Args:
        image: Path, URL (``http://`` or ``https://``), bytes of a file, open binary file, PIL image, or array
            ``(H, W)``, ``(H, W, 1)``, ``(H, W, 3)`` or ``(H, W, 4)`` of uint8, uint16, or floating point in [0, 1].
        model: Name of a released model, Hugging Face id, URL, file or folder, see :func:`mmbirefnet.zoo.fetch`; or a
            :class:`BiRefNetInferencer`, for other configs and backends, which has its own device and dtype.
        device: For example ``'cuda:1'``; ``None`` for a GPU where there is one.
        dtype: ``'float32'``, or ``'bfloat16'`` or ``'float16'`` for mixed precision; ``'auto'`` for bfloat16 on a CPU
            with AVX512-BF16 or AMX, and float32 elsewhere.
        input_size: Size the image is resized to for the model: ``None`` for the one it was trained at, pixels of a
            square, (height, width), or ``'image'`` for the image's own, rounded to multiples of 32.
        max_size: At the image's own size, the longer side is at most this many pixels.
        flip: Whether to average with the prediction of the mirrored image.
        scales: Factors of the input size, whose predictions are averaged.
        box: (left, top, right, bottom) in pixels of the upright image: alpha is 0 outside.
        margin: What the model sees around the box, as a share of the box's sides.
        threshold: Makes alpha binary: opaque where the probability exceeds this.
        min_area: Removes components that are smaller: in pixels from 1 on, below 1 as a share of the image.
        levels: (low, high): alpha becomes 0 up to ``low``, 1 from ``high`` on, and linear between.
        largest: Whether to keep only the largest component.
        fill_holes: Whether to set what an object encloses to 1.
        grow: Pixels that the object grows by; a negative number shrinks it.
        feather: Standard deviation, in pixels, of a Gaussian that softens the edge.
        invert: Whether to exchange object and background.
        refine: Refines uncertain edges by the colors of the image: ``'guided'`` or ``'closed-form'``. The
            operations on alpha are applied in the order that
            :class:`~mmbirefnet.imaging.settings.Settings` documents.
        mask: Mask in place of a model's prediction, see :class:`~mmbirefnet.apis.masks.MaskInferencer`: path, bytes,
            array or PIL image. No model is loaded then.
        guide: Coarse mask of the object for a model with guidance, likewise; see
            :class:`~mmbirefnet.models.GuidedBiRefNet`.
        tile: Largest side that the model is given, in multiples of 32: an image with a longer side is predicted at its
            own size in overlapping tiles. The model sees only one tile at a time.
        tile_overlap: Pixels that neighboring tiles share; by default a quarter of ``tile``.
        two_pass: Whether to locate the object first, and to predict it again in a crop with ``margin`` around it, for
            small objects in large images.
        estimate_foreground: Whether to estimate the object's own colors at the edges. If false, a fringe of the old
            background stays.
        channel_order: Of arrays with colors: ``'rgb'`` as Pillow has them, or ``'bgr'`` as OpenCV has them.
        max_pixels: Largest image that is decoded from a file; ``None`` for Pillow's limit, 179 million pixels.
        max_bytes: Largest file that is read from a URL.
        allow_private_urls: Whether a URL may lead to an address that is not public, see
            :func:`mmbirefnet.imaging.urls.read_url`.
        foreground: Former name of ``estimate_foreground``.

    Returns:
        RGBA image at the original size, upright, with the color profile of the original.

    Raises:
        OSError: If the image or the model cannot be read or downloaded.
        ValueError: If an option is wrong, or the image is too large.
        TypeError: If the image is something else.
        ImportError: If a package is missing; the message ends with the command that installs it.
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
