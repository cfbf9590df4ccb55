"""The service's routes: an image in, its cut-out, mask, or the object on a new background out."""

from __future__ import annotations

import io
import threading
import warnings
from enum import Enum
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Annotated
from urllib.parse import quote

import numpy as np
from fastapi import FastAPI, File, Form, HTTPException, Response, UploadFile
from fastapi.responses import FileResponse
from PIL import Image, ImageColor

from mmbirefnet.apis.inferencer import BiRefNetInferencer
from mmbirefnet.imaging.compose import composite, cut_out, fit_background
from mmbirefnet.imaging.maps import to_uint8
from mmbirefnet.imaging.read import LoadedImage, load_image
from mmbirefnet.imaging.settings import Settings
from mmbirefnet.imaging.write import encode_image
from mmbirefnet.version import __version__

from .limits import BoundRequests, Limits, Load

PAGE = Path(__file__).with_name('page.html')
MEDIA_TYPES = {'png': 'image/png', 'webp': 'image/webp', 'jpg': 'image/jpeg'}


class Output(str, Enum):
    cutout = 'cutout'
    mask = 'mask'
    foreground = 'foreground'


class Format(str, Enum):
    png = 'png'
    webp = 'webp'
    jpg = 'jpg'


def create_app(inferencer: BiRefNetInferencer, limits: Limits | None = None) -> FastAPI:
    """The application, to be run by any ASGI server; nothing is written to disk.

    Args:
        inferencer: What predicts; called by one thread at a time.
        limits: Bounds on requests.
    """
    limits = limits or Limits()
    one_at_a_time = threading.Lock()
    app = FastAPI(title='mmbirefnet', version=__version__, description='Cuts objects out of images with BiRefNet.')
    load = Load()
    app.add_middleware(BoundRequests, limits=limits, load=load)

    @app.get('/', include_in_schema=False)
    def page() -> FileResponse:
        return FileResponse(PAGE, headers={'Content-Security-Policy': _CONTENT_SECURITY_POLICY})

    @app.get('/api/health', summary='What is running, and how busy it is')
    def health() -> dict:
        return {
            'status': 'ok',
            'version': __version__,
            'model': inferencer.backend.name,
            'under_way': load.under_way,
            'queue': limits.queue,
        }

    @app.post(
        '/api/cut',
        summary='Cut the object out of an image',
        response_class=Response,
        responses={
            200: {'content': {kind: {} for kind in MEDIA_TYPES.values()}, 'description': 'The image asked for.'},
            400: {'description': 'The file is no image or damaged, or an option does not fit.'},
            408: {'description': 'The upload took too long.'},
            413: {'description': 'Too many bytes or pixels.'},
            429: {'description': 'The queue is full; Retry-After says when to come again.'},
        },
    )
    def cut(
        file: Annotated[UploadFile, File(description='The image.')],
        output: Annotated[Output, Form(description='With alpha, a gray mask, or on a background.')] = Output.cutout,
        format: Annotated[Format, Form(description='jpg holds no alpha.')] = Format.png,
        background: Annotated[str, Form(description="Color behind the foreground: '#rrggbb' or a name.")] = 'white',
        background_file: Annotated[UploadFile | None, File(description='Image behind the foreground.')] = None,
        estimate_foreground: Annotated[
            bool, Form(description='Take the old background out of the colors at the edge.')
        ] = True,
        size: Annotated[
            int | None, Form(description="Side of the model's input in pixels, a multiple of 32; by default its own.")
        ] = None,
        flip: Annotated[bool, Form(description='Average with the map of the mirrored image.')] = False,
        threshold: Annotated[float | None, Form(description='Make the map binary.')] = None,
        min_area: Annotated[float, Form(description='Remove smaller components: pixels, or below 1 a share.')] = 0,
        box: Annotated[str | None, Form(description="'left,top,right,bottom' in pixels: look in here only.")] = None,
    ) -> Response:
        if size is not None and size > limits.input_size:
            raise HTTPException(400, f'size={size}, may be {limits.input_size} at most')
        if output is Output.cutout and format is Format.jpg:
            raise HTTPException(400, 'format=jpg holds no alpha; png and webp do')
        try:
            settings = Settings(
                input_size=size, flip=flip, threshold=threshold, min_area=min_area, box=_numbers(box) if box else None
            )
            behind = _read(background_file, limits) if background_file else ImageColor.getrgb(background)[:3]
            image = _read(file, limits)
            with one_at_a_time:
                soft_map = inferencer.predict_image(image, settings)
        except (ValueError, OSError) as error:
            raise HTTPException(400, str(error)) from error
        pixels = _compose(image, soft_map, output, behind, estimate_foreground)
        content = encode_image(
            pixels,
            format.value,
            None if output is Output.mask else image.icc_profile,
            lossless=output is not Output.foreground,
        )
        name = quote(f'{Path(image.name).stem}-{output.value}.{format.value}')
        headers = {'Content-Disposition': f"inline; filename*=UTF-8''{name}"}
        return Response(content, media_type=MEDIA_TYPES[format.value], headers=headers)

    return app


# The page takes nothing from anywhere else.
_CONTENT_SECURITY_POLICY = (
    "default-src 'none'; img-src 'self' blob: data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "connect-src 'self'"
)


def _read(file: UploadFile, limits: Limits) -> LoadedImage:
    """Decode an upload whose header announces no more pixels than allowed."""
    content = file.file.read()
    # Only a name: nothing is opened or written by it.
    name = PureWindowsPath(PurePosixPath(file.filename or 'image').name).name or 'image'
    try:
        with warnings.catch_warnings(), Image.open(io.BytesIO(content)) as image:
            warnings.simplefilter('ignore', Image.DecompressionBombWarning)  # the limit below is what counts
            width, height = image.size
    except Image.DecompressionBombError as error:
        raise HTTPException(413, f'{name}: {error}') from error
    except Exception:  # of many kinds; load_image says which
        return load_image(content, name)
    if width * height > limits.megapixels * 1e6:
        raise HTTPException(413, f'{name}: {width}x{height} pixels; at most {limits.megapixels:g} megapixels are taken')
    return load_image(content, name)


def _numbers(text: str) -> list[float]:
    try:
        return [float(number) for number in text.split(',')]
    except ValueError as error:
        raise ValueError(f"box={text!r}, must be 'left,top,right,bottom'") from error


def _compose(image: LoadedImage, soft_map: np.ndarray, output: Output, behind, estimate: bool) -> np.ndarray:
    if output is Output.mask:
        return to_uint8(soft_map)
    cutout = cut_out(image, soft_map, estimate)
    return cutout if output is Output.cutout else composite(cutout, fit_background(behind, image.size))
