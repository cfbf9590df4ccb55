"""Compare several models or settings on the same images, on one HTML page."""

from __future__ import annotations

import gc
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from mmbirefnet.apis.inferencer import BiRefNetInferencer
from mmbirefnet.fileio.atomic import already_exists, replacing
from mmbirefnet.imaging.comparison import ComparedImage, build_comparison, encode_version
from mmbirefnet.imaging.compose import cut_out
from mmbirefnet.imaging.read import LoadedImage
from mmbirefnet.imaging.refine import METHODS
from mmbirefnet.imaging.sandbox import ImageDecoder
from mmbirefnet.imaging.settings import Settings
from mmbirefnet.imaging.sources import Source, list_sources
from mmbirefnet.utils.deprecation import former_argument

DTYPES = ('float32', 'bfloat16', 'float16')
_SIZE = re.compile(r'\d+(x\d+)?|image')
Version = tuple[str | os.PathLike | BiRefNetInferencer, Settings, str]


def parse_version(text: str, settings: Settings | None = None) -> tuple[str, Settings, str]:
    """Split ``MODEL@SETTING,…`` into model, settings and dtype.

    Args:
        text: Model, in any form that :class:`BiRefNetInferencer` accepts. After ``@`` come changes to ``settings``: an
            input size (``2048``, ``HEIGHTxWIDTH`` or ``image``), ``flip``, ``guided`` or ``closed-form`` (``refine``),
            or a dtype. Any other text after ``@`` is part of the model's name: a revision.
        settings: Options of the prediction, common to all versions.

    Returns:
        Model, settings and dtype.

    Raises:
        ValueError: If the size is invalid.
    """
    settings, dtype = settings or Settings(), DTYPES[0]
    model, at, options = text.rpartition('@')
    words = options.split(',')
    if not at or not all(_SIZE.fullmatch(word) or word in ('flip', *METHODS, *DTYPES) for word in words):
        return text, settings, dtype
    for word in words:
        if word == 'flip':
            settings = replace(settings, flip=True)
        elif word in METHODS:
            settings = replace(settings, refine=word)
        elif word in DTYPES:
            dtype = word
        else:
            sides = word if word == 'image' else tuple(map(int, word.split('x')))
            settings = replace(settings, input_size=sides[0] if len(sides) == 1 else sides)
    return model, settings, dtype


def compare(
    models: Sequence[str | os.PathLike] | Mapping[str, BiRefNetInferencer],
    inputs,
    out: str | os.PathLike,
    *,
    settings: Settings | None = None,
    device: str | None = None,
    estimate_foreground: bool = True,
    longest: int = 1024,
    max_pixels: int | None = None,
    decoder: ImageDecoder | None = None,
    overwrite: bool = True,
    on_error: Callable[[Source, Exception], None] | None = None,
    on_done: Callable[[], None] = lambda: None,
    foreground: bool | None = None,
) -> Path:
    """Write a page that compares several models or settings on the same images with sliders.

    The page is one HTML file, which opens in a browser without a server. Models are loaded one after another.

    Args:
        models: Models, optionally with settings of their own, see :func:`parse_version`; or inferencers by name.
        inputs: Images, in any form that :class:`BiRefNetInferencer` accepts.
        out: The HTML file.
        settings: Options of the prediction.
        device: For example ``'cuda:1'``; ``None`` for a GPU if there is one, otherwise the CPU.
        estimate_foreground: Whether to estimate the object's own colors at the edges.
        longest: Longer side of the images on the page, in pixels.
        max_pixels: Largest image to read, in pixels.
        decoder: Reads files in worker processes.
        overwrite: Whether ``out`` may be replaced.
        on_error: Called with each image that failed and its error; the job continues. ``None`` raises the first error.
        on_done: Called after each prediction.
        foreground: Former name of ``estimate_foreground``.

    Returns:
        Path of the page.

    Raises:
        ValueError: If there is no model, a model is given twice, or an option is invalid.
        FileExistsError: If ``out`` exists and may not be replaced.
        OSError: If an image or model cannot be read, or the page cannot be written.
    """
    estimate_foreground = former_argument('foreground', foreground, 'estimate_foreground', estimate_foreground)
    out = Path(out)
    if not isinstance(models, Mapping):
        models = [os.fspath(model) for model in models]
        if repeated := sorted({model for model in models if models.count(model) > 1}):
            raise ValueError(f'{repeated[0]}: is given twice. Fix: give it other settings, such as {repeated[0]}@2048')
        versions: dict[str, Version] = {model: parse_version(model, settings) for model in models}
    else:
        versions = {name: (inferencer, settings or Settings(), DTYPES[0]) for name, inferencer in models.items()}
    if not versions:
        raise ValueError('models: no model to compare. Fix: give at least one')
    if longest < 1:
        raise ValueError(f'longest={longest!r}, must be 1 or more')
    if out.exists() and not overwrite:
        raise already_exists(out)
    sources = list_sources(inputs)
    originals: dict[Source, bytes] = {}
    sizes: dict[Source, tuple[int, int]] = {}
    cutouts: dict[Source, dict[str, bytes]] = {source: {} for source in sources}
    notes: dict[Source, dict[str, str]] = {source: {} for source in sources}

    def note_error(name: str):
        def add(source: Source, error: Exception) -> None:
            notes[source][name] = str(error) or type(error).__name__
            on_error(source, error)
            on_done()

        return None if on_error is None else add

    for name, (model, own, dtype) in versions.items():
        inferencer = model
        if not isinstance(model, BiRefNetInferencer):
            inferencer = BiRefNetInferencer(model, device=device, dtype=dtype)
        predictions = inferencer.predict(
            sources, own, on_error=note_error(name), max_pixels=max_pixels, decoder=decoder
        )
        for source, image, soft_map, seconds in predictions:
            if source not in originals:
                originals[source], sizes[source] = encode_version(image.visible(), longest), image.size
            cutout = cut_out(image, soft_map, estimate_foreground, inferencer.compose_device)
            cutouts[source][name] = encode_version(cutout, longest)
            notes[source][name] = _note(inferencer, image, own, seconds)
            on_done()
        del inferencer, predictions
        gc.collect()  # free the memory before the next model is loaded
    shown = [
        ComparedImage(
            source.name,
            sizes[source],
            originals[source],
            [cutouts[source].get(name) for name in versions],
            [notes[source].get(name, '') for name in versions],
        )
        for source in sources
        if source in originals
    ]
    content = build_comparison(list(versions), shown)
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out, overwrite, sync=False) as temporary:
        temporary.write_text(content, 'utf-8', 'backslashreplace')
    return out


def _note(inferencer: BiRefNetInferencer, image: LoadedImage, settings: Settings, seconds: float) -> str:
    sizes = ', '.join(f'{height}x{width}' for height, width in inferencer.input_sizes(image, settings))
    return f'input {sizes} (height x width), {seconds:.2f} s'
