"""The service's routes: an image in; its mask, cut-out, or the object on a new background out."""

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
EDGE_PIXELS = 20  # to grow or feather by: 50 megapixels take some seconds, and wider edges many times as long
CLIENT_LEFT = 499  # as nginx logs it; nobody gets this answer
# The page loads nothing from elsewhere.
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
    guided = 'guided'  # closed-form matting takes up to 15 minutes a megapixel


class Problem(BaseModel):
    """Answer to a request that failed."""

    detail: str


def create_app(
    inferencer: BiRefNetInferencer | Mapping[str, BiRefNetInferencer | Sequence[BiRefNetInferencer]],
    limits: Limits | None = None,
    *,
    allowed_hosts: Collection[str] = (),
    cors: Collection[str] = (),
    api_key: str | None = None,
) -> FastAPI:
    """Build the application, to be run by any ASGI server; nothing is written to disk.

    Images are decoded in other processes. Each device predicts one batch at a time.

    Args:
        inferencer: The model, or several by name, of which the first is the default. In place of a model a list of
            its copies, one for each device; the copies work at the same time, on requests from one queue.
        limits: Bounds on requests.
        allowed_hosts: Host names by which the service may be reached; ``'*'`` for all. By default all, but only
            loopback names for connections to a loopback address.
        cors: Origins, such as ``'https://example.org'``, whose pages may use the service; ``'*'`` for all.
        api_key: Key that requests must carry, as ``Authorization: Bearer KEY``.

    Raises:
        ValueError: If there is no model, the models have different numbers of copies, or an origin is none.
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
        docs_url=None,  # its page loads scripts from elsewhere
        redoc_url=None,
        lifespan=lifespan,
    )
    app.router.route_class = FormRoute
    app.add_middleware(BoundUploads, limits=limits, is_full=lambda: pipeline.is_full)
    app.add_middleware(Gate, counters=counters, hosts=allowed_hosts, origins=cors, api_key=api_key)
    if cors:  # outside the gate, so that pages of these origins can read why it refuses a request
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

    @app.get('/api/health', summary='What is running, and how busy it is')
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

    @app.get('/models', summary='The models, their sizes, and which is the default')
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

    @app.get('/metrics', summary='Counts in the text format of Prometheus', response_class=PlainTextResponse)
    async def metrics() -> PlainTextResponse:
        predictor, budget = pipeline.predictor, pipeline.budget
        text = counters.text(
            {
                'mmbirefnet_under_way': ('gauge', 'Requests that wait or are processed.', pipeline.under_way),
                'mmbirefnet_queue_places': ('gauge', 'Requests that may wait or be processed.', limits.queue),
                'mmbirefnet_memory_taken_bytes': ('gauge', 'Memory set aside for requests.', budget.taken),
                'mmbirefnet_memory_limit_bytes': ('gauge', 'Memory that can be set aside.', budget.total),
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
            403: {'model': Problem, 'description': 'The page that sends the request is of another origin.'},
            408: {'model': Problem, 'description': 'The upload took too long.'},
            413: {'model': Problem, 'description': 'Too many bytes or pixels, or more memory than the service has.'},
            422: {'model': Problem, 'description': 'A field is missing or has a wrong type.'},
            429: {'model': Problem, 'description': 'The queue is full; Retry-After gives the seconds to wait.'},
            503: {'model': Problem, 'description': 'Out of memory, or not ready in time; Retry-After as above.'},
        },
    )
    async def cut(
        request: Request,
        file: Annotated[UploadFile, File(description='The image.')],
        output: Annotated[
            Output, Form(description='RGBA with the object alone, a gray mask, or the object on a background.')
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
                "image's own; by default the one it was trained at."
            ),
        ] = None,
        max_size: Annotated[
            int | None, Form(description="Longer side at most, with size=image; by default the service's limit.")
        ] = None,
        tile: Annotated[
            int | None, Form(description='Predict images with a longer side in overlapping tiles of so many pixels.')
        ] = None,
        tile_overlap: Annotated[
            int | None, Form(description='Pixels that neighboring tiles share; by default a quarter of tile.')
        ] = None,
        two_pass: Annotated[
            bool, Form(description='Locate the object, and predict it again in a crop with margin around it.')
        ] = False,
        scales: Annotated[
            str | None, Form(description="Factors of the input size whose predictions are averaged: '0.75,1,1.25'.")
        ] = None,
        mask: Annotated[
            UploadFile | None, File(description='Mask that takes the place of the model: gray, or with alpha.')
        ] = None,
        guide: Annotated[
            UploadFile | None, File(description='Coarse mask of what to segment, for a model with guidance.')
        ] = None,
        refine: Annotated[Refine | None, Form(description='Refine uncertain edges by the colors of the image.')] = None,
        flip: Annotated[bool, Form(description='Average with the prediction for the mirrored image.')] = False,
        threshold: Annotated[float | None, Form(description='Make the mask binary.')] = None,
        min_area: Annotated[
            float, Form(description='Remove smaller components: pixels, or below 1 a fraction of the image.')
        ] = 0,
        box: Annotated[
            str | None, Form(description="'left,top,right,bottom' in pixels: look for the object inside only.")
        ] = None,
        margin: Annotated[
            float, Form(description="What the model sees around the box, as a share of the box's sides.")
        ] = 0.1,
        levels: Annotated[
            str | None, Form(description="'low,high': make the mask 0 up to low and 1 from high on.")
        ] = None,
        largest: Annotated[bool, Form(description='Keep only the largest component.')] = False,
        fill_holes: Annotated[bool, Form(description='Fill holes in objects.')] = False,
        grow: Annotated[
            int, Form(description=f'Pixels to grow objects by, or shrink if negative; {EDGE_PIXELS} at most.')
        ] = 0,
        feather: Annotated[
            float, Form(description=f'Sigma in pixels of a Gaussian that softens the edge; {EDGE_PIXELS} at most.')
        ] = 0,
        invert: Annotated[bool, Form(description='Exchange object and background.')] = False,
        crop: Annotated[
            float | None,
            Form(
                description="Crop to the object, with a margin that is a share of the box's sides; X-Crop-Box has "
                "'left,top,right,bottom'."
            ),
        ] = None,
    ) -> Response:
        name = _file_name(file)
        try:
            input_size = _size(size, limits.input_size)
            for option, pixels in (('max_size', max_size), ('tile', tile)):
                if pixels is not None and pixels > limits.input_size:
                    raise ValueError(f'{option}={pixels}, may be {limits.input_size} at most')
            if mask and model is not None:
                raise ValueError(f'model={model!r:.99}: mask takes the place of a model. Fix: send one of them')
            if mask and guide:
                raise ValueError('guide: is for a model, whose place mask takes. Fix: send one of them')
            for option, pixels in (('grow', grow), ('feather', feather)):
                if abs(pixels) > EDGE_PIXELS:
                    raise ValueError(f'{option}={pixels:g}: the service takes {EDGE_PIXELS} pixels at most')
            if crop is not None and not 0 <= crop < float('inf'):
                raise ValueError(f'crop={crop}, must be finite, 0 or more')
            if output is Output.cutout and format is Format.jpg:
                raise ValueError('format=jpg has no alpha; send format=png or webp, or output=composite or mask')
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
    """Let the pipeline work on a job until it is done, its time is over, or the client has left."""
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
        return Result(CLIENT_LEFT, 'the client has left')
    return Result(503, 'busy: the answer did not become ready in time, try again later')


def _drop(future) -> None:
    """Give back the memory of an answer that nobody waits for."""
    if not future.cancelled() and future.result().share:
        future.result().share.release()


async def _disconnected(request: Request) -> None:
    while (await request.receive())['type'] != 'http.disconnect':
        pass


def _problem(status: int, detail: str) -> JSONResponse:
    return JSONResponse({'detail': detail}, status, {'Retry-After': RETRY_AFTER} if status in (429, 503) else None)


def _reasons(error: RequestValidationError) -> str:
    """What is wrong with which field; values are not repeated, since they may be whole images."""
    reasons = []
    for problem in error.errors():
        field = '.'.join(str(part) for part in problem['loc'][1:]) or 'file'
        reasons.append(FILE_HINT if field == 'file' else f'{field}: {problem["msg"]}')
    return '; '.join(dict.fromkeys(reasons))


def _contents(file: UploadFile) -> bytes:
    """The bytes of an upload, whose own copy is dropped."""
    with file.file:
        return file.file.read()


def _file_name(file: UploadFile) -> str:
    """A name alone: nothing is opened or written by it."""
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
        raise ValueError(f'size={text}, may be {longest} at most')
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
        raise ValueError(f'inferencer={inferencer!r}: give at least one model')
    if len(counts) > 1:
        raise ValueError(f'inferencer: models have {" and ".join(map(str, counts))} copies; give as many of each')
    return models


def _check_origin(origin: str) -> None:
    parts = urlsplit(origin)
    if origin != '*' and not (parts.scheme and parts.netloc and origin == f'{parts.scheme}://{parts.netloc}'):
        raise ValueError(f'cors={origin!r}: is no origin. Fix: write it as https://example.org, without a path, or *')
