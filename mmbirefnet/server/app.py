"""Routes of the service: they take an image, and return its mask, cut-out, or composite on a new background."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from enum import Enum
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Annotated
from urllib.parse import quote, urlsplit

from fastapi import FastAPI, File, Form, Request, Response, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool
from starlette.middleware.cors import CORSMiddleware

from mmbirefnet.apis.inferencer import BiRefNetInferencer
from mmbirefnet.imaging.compose import output_kind, parse_color
from mmbirefnet.imaging.settings import Settings, parse_size
from mmbirefnet.version import __version__

from .limits import Limits
from .pipeline import Job, Pipeline, Result
from .requests import FILE_HINT, RETRY_AFTER, BoundUploads, Counters, FormRoute, Gate

PAGE = Path(__file__).with_name('page.html')
MEDIA_TYPES = {'png': 'image/png', 'webp': 'image/webp', 'jpg': 'image/jpeg'}
EDGE_PIXELS = 20  # largest grow and feather: takes some seconds at 50 megapixels; wider edges take far longer
CLIENT_LEFT = 499  # nginx's status for a client that disconnected; only for the log
# The page loads nothing from other servers.
_CONTENT_SECURITY_POLICY = (
    "default-src 'none'; img-src 'self' blob: data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "connect-src 'self'; frame-ancestors 'none'"
)


class Output(str, Enum):
    cutout = 'cutout'
    mask = 'mask'
    composite = 'composite'
    foreground = 'foreground'  # former name of composite


class Format(str, Enum):
    png = 'png'
    webp = 'webp'
    jpg = 'jpg'


class Refine(str, Enum):
    guided = 'guided'  # closed-form matting takes up to 15 minutes per megapixel


class Problem(BaseModel):
    """Body of the response to a request that failed."""

    detail: str


def create_app(
    inferencer: BiRefNetInferencer | Mapping[str, BiRefNetInferencer | Sequence[BiRefNetInferencer]],
    limits: Limits | None = None,
    *,
    allowed_hosts: Collection[str] = (),
    cors: Collection[str] = (),
    api_key: str | None = None,
) -> FastAPI:
    """Build the ASGI application. It writes nothing to disk.

    Images are decoded in worker processes. Each device predicts one batch at a time.

    Args:
        inferencer: The model, or several by name; the first is the default. Each model can be a list of copies, one per
            device, which process requests from one queue in parallel.
        limits: Limits on requests.
        allowed_hosts: Host names that requests may use; ``'*'`` for all. By default all, but only loopback names for
            connections to a loopback address.
        cors: Origins, such as ``'https://example.org'``, whose pages may use the service; ``'*'`` for all.
        api_key: Key that requests must send, as ``Authorization: Bearer KEY``.

    Raises:
        ValueError: If there is no model, the models have different numbers of copies, or an origin is invalid.
    """
    limits = limits or Limits()
    models = _copies(inferencer)
    for origin in cors:
        _check_origin(origin)
    default_model = next(iter(models))
    pipeline, counters = Pipeline(models, limits), Counters()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await run_in_threadpool(pipeline.start)
        yield
        pipeline.close()

    app = FastAPI(
        title='mmbirefnet',
        version=__version__,
        description='Removes the background of images with BiRefNet.',
        docs_url=None,  # its page loads scripts from other servers
        redoc_url=None,
        lifespan=lifespan,
    )
    app.router.route_class = FormRoute
    app.add_middleware(BoundUploads, limits=limits, is_full=lambda: pipeline.is_full)
    app.add_middleware(Gate, counters=counters, hosts=allowed_hosts, origins=cors, api_key=api_key)
    if cors:  # outside the gate, so that pages of these origins can read why a request was rejected
        app.add_middleware(
            CORSMiddleware,
            allow_origins=[origin.lower() for origin in cors],
            allow_methods=['GET', 'POST'],
            allow_headers=['Authorization', 'X-API-Key', 'X-Request-ID'],
            expose_headers=['Content-Disposition', 'X-Crop-Box', 'X-Request-ID', 'Retry-After'],
        )

    @app.exception_handler(RequestValidationError)
    async def explain(_: Request, error: RequestValidationError) -> JSONResponse:
        return JSONResponse({'detail': _reasons(error)}, 422)

    @app.get('/', include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(PAGE, headers={'Content-Security-Policy': _CONTENT_SECURITY_POLICY})

    @app.get('/api/health', summary='Version, models and load of the service')
    async def health() -> dict:
        return {
            'status': 'ok',
            'version': __version__,
            'model': default_model,
            'models': list(models),
            'devices': len(models[default_model]),
            'under_way': pipeline.under_way,
            'queue': limits.queue,
        }

    @app.get('/models', summary='The models with their input sizes, and the default model')
    async def list_models() -> dict:
        return {
            'default': default_model,
            'models': [
                {
                    'name': name,
                    'input_height': copies[0].backend.input_size[0],
                    'input_width': copies[0].backend.input_size[1],
                }
                for name, copies in models.items()
            ],
        }

    @app.get('/metrics', summary='Metrics in the text format of Prometheus', response_class=PlainTextResponse)
    async def metrics() -> PlainTextResponse:
        predictor, budget = pipeline.predictor, pipeline.budget
        text = counters.text(
            {
                'mmbirefnet_under_way': ('gauge', 'Requests that wait or are processed.', pipeline.under_way),
                'mmbirefnet_queue_places': ('gauge', 'Requests that may wait or be processed.', limits.queue),
                'mmbirefnet_memory_taken_bytes': ('gauge', 'Memory reserved for requests.', budget.taken),
                'mmbirefnet_memory_limit_bytes': ('gauge', 'Memory that can be reserved.', budget.total),
                'mmbirefnet_predicted_images_total': ('counter', 'Images predicted.', predictor.images),
                'mmbirefnet_batches_total': ('counter', 'Batches predicted.', predictor.batches),
            }
        )
        return PlainTextResponse(text, media_type='text/plain; version=0.0.4')

    @app.post(
        '/api/cut',
        summary='Remove the background of an image',
        response_class=Response,
        responses={
            200: {'content': {kind: {} for kind in MEDIA_TYPES.values()}, 'description': 'The requested image.'},
            400: {'model': Problem, 'description': 'The file is not an image or is damaged, or an option is wrong.'},
            401: {'model': Problem, 'description': 'The API key is missing or wrong.'},
            403: {'model': Problem, 'description': 'The request comes from a page of another origin.'},
            408: {'model': Problem, 'description': 'The upload took too long.'},
            413: {
                'model': Problem,
                'description': 'The file or image is too large, or needs more memory than the service may use.',
            },
            422: {'model': Problem, 'description': 'A field is missing or has a wrong type.'},
            429: {'model': Problem, 'description': 'The queue is full; Retry-After gives the seconds to wait.'},
            503: {
                'model': Problem,
                'description': 'Out of memory, or not ready in time; Retry-After gives the seconds to wait.',
            },
        },
    )
    async def cut(
        request: Request,
        file: Annotated[UploadFile, File(description='The image.')],
        output: Annotated[
            Output, Form(description='Cut-out in RGBA, gray mask, or composite of the object on a background.')
        ] = Output.cutout,
        format: Annotated[Format, Form(description='jpg has no alpha.')] = Format.png,
        background: Annotated[str, Form(description="Color behind the object: '#rrggbb' or a name.")] = 'white',
        background_file: Annotated[UploadFile | None, File(description='Image behind the object.')] = None,
        estimate_foreground: Annotated[
            bool, Form(description='Remove the old background from the colors at the edge.')
        ] = True,
        model: Annotated[str | None, Form(description='Name of a model; /models lists them.')] = None,
        size: Annotated[
            str | None,
            Form(
                description="Input size of the model: pixels or HEIGHTxWIDTH in multiples of 32, or 'image' for the "
                'size of the image; by default the training size.'
            ),
        ] = None,
        max_size: Annotated[
            int | None,
            Form(description='Longest side with size=image, in pixels; by default the limit of the service.'),
        ] = None,
        tile: Annotated[
            int | None,
            Form(description='Side of overlapping tiles in pixels; images with a longer side are predicted in tiles.'),
        ] = None,
        tile_overlap: Annotated[
            int | None, Form(description='Overlap of neighboring tiles in pixels; by default a quarter of tile.')
        ] = None,
        two_pass: Annotated[
            bool, Form(description='Locate the object, then predict it again in a crop with margin around it.')
        ] = False,
        scales: Annotated[
            str | None, Form(description="Factors of the input size whose predictions are averaged: '0.75,1,1.25'.")
        ] = None,
        mask: Annotated[
            UploadFile | None, File(description='Mask to use instead of a model: gray, or with alpha.')
        ] = None,
        guide: Annotated[
            UploadFile | None, File(description='Coarse mask of what to segment, for a model with guidance.')
        ] = None,
        refine: Annotated[
            Refine | None, Form(description='Refine uncertain edges with the colors of the image.')
        ] = None,
        flip: Annotated[bool, Form(description='Average with the prediction of the mirrored image.')] = False,
        threshold: Annotated[float | None, Form(description='Make the mask binary: 1 above this value.')] = None,
        min_area: Annotated[
            float, Form(description='Remove components with fewer pixels; a value below 1 is a fraction of the image.')
        ] = 0,
        box: Annotated[
            str | None, Form(description="'left,top,right,bottom' in pixels: segment only in this box.")
        ] = None,
        margin: Annotated[float, Form(description='Context around the box, as a fraction of its sides.')] = 0.1,
        levels: Annotated[
            str | None,
            Form(description="'low,high': values of the mask up to low become 0, values from high become 1."),
        ] = None,
        largest: Annotated[bool, Form(description='Keep only the largest component.')] = False,
        fill_holes: Annotated[bool, Form(description='Fill holes in objects.')] = False,
        grow: Annotated[
            int, Form(description=f'Pixels to grow objects by, or shrink if negative; {EDGE_PIXELS} at most.')
        ] = 0,
        feather: Annotated[
            float, Form(description=f'Sigma in pixels of a Gaussian that softens the edge; {EDGE_PIXELS} at most.')
        ] = 0,
        invert: Annotated[bool, Form(description='Swap object and background.')] = False,
        crop: Annotated[
            float | None,
            Form(
                description='Crop to the object, with a margin as a fraction of its sides; X-Crop-Box contains '
                "'left,top,right,bottom'."
            ),
        ] = None,
    ) -> Response:
        name = _file_name(file)
        try:
            input_size = _size(size, limits.input_size)
            for option, pixels in (('max_size', max_size), ('tile', tile)):
                if pixels is not None and pixels > limits.input_size:
                    raise ValueError(f'{option}={pixels}, must be at most {limits.input_size}')
            if mask and model is not None:
                raise ValueError(f'model={model!r:.99}: mask is used instead of a model. Fix: send only one of them')
            if mask and guide:
                raise ValueError('guide: needs a model, but mask is used instead of one. Fix: send only one of them')
            for option, pixels in (('grow', grow), ('feather', feather)):
                if abs(pixels) > EDGE_PIXELS:
                    raise ValueError(f'{option}={pixels:g}, must be at most {EDGE_PIXELS} pixels')
            if crop is not None and not 0 <= crop < float('inf'):
                raise ValueError(f'crop={crop}, must be finite, 0 or more')
            if output is Output.cutout and format is Format.jpg:
                raise ValueError('format=jpg has no alpha. Fix: send format=png or webp, or output=composite or mask')
            if model is not None and model not in models:
                raise ValueError(f'model={model!r:.99}, must be one of {", ".join(models)}')
            job = Job(
                name=name,
                read=lambda: _contents(file),
                model=model or default_model,
                settings=Settings(
                    input_size=input_size,
                    max_size=limits.input_size if max_size is None else max_size,
                    flip=flip,
                    scales=_numbers('scales', scales, '0.75,1,1.25', any_number=True) or (1.0,),
                    box=_numbers('box', box, 'left,top,right,bottom'),
                    margin=margin,
                    threshold=threshold,
                    min_area=min_area,
                    levels=_numbers('levels', levels, 'low,high'),
                    largest=largest,
                    fill_holes=fill_holes,
                    grow=grow,
                    feather=feather,
                    invert=invert,
                    refine=refine and refine.value,
                    tile=tile,
                    tile_overlap=tile_overlap,
                    two_pass=two_pass,
                ),
                output=output_kind(output.value),
                format=format.value,
                background=(lambda: _contents(background_file)) if background_file else parse_color(background[:99]),
                background_name=_file_name(background_file) if background_file else '',
                estimate_foreground=estimate_foreground,
                crop=crop,
                mask=(lambda: _contents(mask)) if mask else None,
                mask_name=_file_name(mask) if mask else '',
                guide=(lambda: _contents(guide)) if guide else None,
                guide_name=_file_name(guide) if guide else '',
                end=time.monotonic() + limits.seconds,
                request=request.scope['mmbirefnet']['id'],
            )
        except ValueError as error:
            return _problem(400, str(error))
        result = await _finish(pipeline, job, request)
        if result.status != 200:
            return _problem(result.status, result.content)
        request.scope['mmbirefnet']['held'].append(result.share)
        shown = quote(f'{Path(name).stem}-{output.value}.{format.value}')
        headers = {'Content-Disposition': f"inline; filename*=UTF-8''{shown}"}
        if result.box is not None:
            headers['X-Crop-Box'] = ','.join(map(str, result.box))
        return Response(result.content, media_type=MEDIA_TYPES[format.value], headers=headers)

    return app


async def _finish(pipeline: Pipeline, job: Job, request: Request) -> Result:
    """Run a job until it is finished, its deadline has passed, or the client has disconnected."""
    future = pipeline.submit(job)
    if future is None:
        return Result(429, 'busy: the queue is full, try again later')
    working, left = asyncio.wrap_future(future), asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait(
            {working, left}, timeout=max(0.0, job.end - time.monotonic()), return_when=asyncio.FIRST_COMPLETED
        )
    finally:
        left.cancel()
        if not working.done():
            job.abandoned.set()
            future.add_done_callback(_drop)
    if working.done():
        return working.result()
    if left.done():
        return Result(CLIENT_LEFT, 'the client has disconnected')
    return Result(503, 'busy: the result was not ready in time, try again later')


def _drop(future) -> None:
    """Release the memory of a result that is no longer needed."""
    if not future.cancelled() and future.result().share:
        future.result().share.release()


async def _disconnected(request: Request) -> None:
    while (await request.receive())['type'] != 'http.disconnect':
        pass


def _problem(status: int, detail: str) -> JSONResponse:
    return JSONResponse({'detail': detail}, status, {'Retry-After': RETRY_AFTER} if status in (429, 503) else None)


def _reasons(error: RequestValidationError) -> str:
    """Describe the invalid fields, without their values, which may be whole images."""
    reasons = []
    for problem in error.errors():
        field = '.'.join(str(part) for part in problem['loc'][1:]) or 'file'
        reasons.append(FILE_HINT if field == 'file' else f'{field}: {problem["msg"]}')
    return '; '.join(dict.fromkeys(reasons))


def _contents(file: UploadFile) -> bytes:
    """Read an upload, and free its own copy."""
    with file.file:
        return file.file.read()


def _file_name(file: UploadFile) -> str:
    """The file name without folders. It is only displayed: no file of this name is opened."""
    return PureWindowsPath(PurePosixPath(file.filename or 'image').name).name or 'image'


def _size(text: str | None, longest: int) -> int | tuple[int, int] | str | None:
    if not text:
        return None
    try:
        size = parse_size(text[:99])
    except ValueError as error:
        raise ValueError(f'size={error}') from error
    sides = () if isinstance(size, str) else (size,) if isinstance(size, int) else size
    if any(side > longest for side in sides):
        raise ValueError(f'size={text}, must be at most {longest}')
    return size


def _numbers(field: str, text: str | None, names: str, any_number: bool = False) -> tuple[float, ...] | None:
    """The numbers in a field: as many as ``names`` has, or with ``any_number`` one or more; ``None`` if it is empty."""
    if not text:
        return None
    try:
        numbers = tuple(float(number) for number in text[:199].split(','))
    except ValueError:
        numbers = ()
    if not numbers or (not any_number and len(numbers) != names.count(',') + 1) or len(text) > 199:
        raise ValueError(f"{field}={text!r:.99}, must be numbers: '{names}'")
    return numbers


def _copies(inferencer) -> dict[str, list[BiRefNetInferencer]]:
    """The copies of each model by its name."""
    models = inferencer if isinstance(inferencer, Mapping) else {inferencer.backend.name: inferencer}
    models = {name: list(value) if isinstance(value, Sequence) else [value] for name, value in models.items()}
    counts = sorted({len(copies) for copies in models.values()})
    if not counts or counts[0] == 0:
        raise ValueError(f'inferencer={inferencer!r}: must be at least one model')
    if len(counts) > 1:
        raise ValueError(f'inferencer: models have {" and ".join(map(str, counts))} copies, must be as many of each')
    return models


def _check_origin(origin: str) -> None:
    parts = urlsplit(origin)
    if origin != '*' and not (parts.scheme and parts.netloc and origin == f'{parts.scheme}://{parts.netloc}'):
        raise ValueError(
            f'cors={origin!r}: is not an origin. Fix: write it as https://example.org, without a path, or *'
        )
