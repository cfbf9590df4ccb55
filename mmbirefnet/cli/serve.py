"""``mmbirefnet serve``: a web page and an HTTP API."""

from __future__ import annotations

import argparse
import logging
import os
import re

from mmbirefnet.apis.inferencer import BiRefNetInferencer
from mmbirefnet.server.limits import MIB, Limits
from mmbirefnet.zoo.catalog import CHECKPOINT_SUFFIXES
from mmbirefnet.zoo.weights import DEFAULT_MODEL

from .options import add_model_arguments, inferencer_of, set_threads

LOOPBACK = '127.0.0.1'
API_KEY_VARIABLE = 'MMBIREFNET_API_KEY'
_UNITS = {'K': 2**10, 'M': 2**20, 'G': 2**30}
# By option: field of Limits (which has the default), type, metavar, and help.
_LIMITS = {
    '--max-pixels': ('megapixels', float, 'MP', 'largest image, in megapixels'),
    '--max-size': ('input_size', int, 'N', 'longest side of the model input, in pixels'),
    '--max-work': ('work', float, 'MP', 'model input per request in megapixels, summed over views, tiles and passes'),
    '--queue': ('queue', int, 'N', 'number of requests that wait or are processed; further ones get status 429'),
    '--upload-seconds': ('upload_seconds', float, 'S', 'time limit of an upload, in seconds'),
    '--decode-seconds': ('decode_seconds', float, 'S', 'time limit for decoding an image, in seconds'),
    '--seconds': ('seconds', float, 'S', 'time limit from upload to response, in seconds'),
    '--decoders': ('decoders', int, 'N', 'number of processes that decode images'),
    '--batch': ('batch', int, 'N', 'number of waiting requests that are predicted as one batch'),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        '--host',
        default=LOOPBACK,
        help='address to listen on; 0.0.0.0 for all addresses of this machine (default: %(default)s)',
    )
    parser.add_argument(
        '--port', type=int, default=8000, help='port to listen on; 0 chooses a free one (default: %(default)s)'
    )
    parser.add_argument(
        '--workers',
        type=int,
        default=1,
        metavar='N',
        help='number of GPUs, each with a copy of the models; on the CPU, number of copies (default: %(default)s)',
    )
    group = parser.add_argument_group('access', f'If ${API_KEY_VARIABLE} is set, requests must send this key.')
    group.add_argument(
        '--allowed-hosts',
        nargs='+',
        default=(),
        metavar='NAME',
        help='host names that requests may use, * for all (default: all; at a loopback address only localhost, '
        '127.0.0.1 and [::1])',
    )
    group.add_argument(
        '--cors', nargs='+', default=(), metavar='ORIGIN', help='origins whose web pages may use the service, * for all'
    )
    group = parser.add_argument_group('limits and throughput')
    group.add_argument(
        '--memory',
        type=_bytes,
        default='8G',
        metavar='SIZE',
        help='memory for all requests together, without the model, such as 512M or 8G (default: %(default)s)',
    )
    group.add_argument(
        '--max-upload',
        type=float,
        default=Limits.upload_bytes / MIB,
        metavar='MIB',
        help='largest upload, in MiB (default: %(default)g)',
    )
    for option, (field, kind, unit, text) in _LIMITS.items():
        default = getattr(Limits, field)
        group.add_argument(option, type=kind, default=default, metavar=unit, help=f'{text} (default: {default:g})')
    add_model_arguments(parser, several=True)


def run(args: argparse.Namespace) -> int:
    try:
        from mmbirefnet.server.app import create_app
        from mmbirefnet.server.running import listen, serve
    except ModuleNotFoundError as error:
        raise ImportError(f"mmbirefnet serve needs {error.name}: pip install 'mmbirefnet[server]'") from error
    for option, value in (('--max-upload', args.max_upload), ('--max-pixels', args.max_pixels)):
        if not 0 < value < float('inf'):
            raise ValueError(f'{option} {value}: must be more than 0 and finite')
    limits = Limits(
        upload_bytes=int(args.max_upload * MIB),
        memory=args.memory,
        **{field: getattr(args, option[2:].replace('-', '_')) for option, (field, *_) in _LIMITS.items()},
    )
    logging.basicConfig(format='%(asctime)s %(levelname)s %(message)s')
    logging.getLogger('mmbirefnet.server').setLevel(logging.INFO)
    logging.getLogger('python_multipart').setLevel(logging.ERROR)  # it logs a warning for every malformed form
    with listen(args.host, args.port) as listener:
        app = create_app(
            inferencers_of(args),
            limits,
            allowed_hosts=args.allowed_hosts,
            cors=args.cors,
            api_key=os.environ.get(API_KEY_VARIABLE),
        )
        host, port = listener.getsockname()[:2]
        address = f'[{host}]' if ':' in host else host
        print(f'http://{address}:{port} (API: /openapi.json); stop with Ctrl-C', flush=True)
        serve(app, listener)
    return 0


def inferencers_of(args: argparse.Namespace) -> dict[str, list[BiRefNetInferencer]]:
    """Load the models, one copy for each worker.

    Raises:
        ValueError: If two models have the same name, or there are fewer GPUs than workers.
    """
    models = named_checkpoints(args.checkpoint)
    if args.workers < 1:
        raise ValueError(f'--workers {args.workers}: must be 1 or more')
    set_threads(args)
    devices = _devices(args.device, args.workers)
    inferencers = {}
    for name, checkpoint in models.items():
        one = [argparse.Namespace(**vars(args) | dict(checkpoint=checkpoint, device=device)) for device in devices]
        copies = [inferencer_of(arguments) for arguments in one]
        inferencers[name or copies[0].backend.name] = copies
    return inferencers


def named_checkpoints(texts: list[str] | None) -> dict[str | None, str | None]:
    """Parse ``--checkpoint`` to checkpoints by name; a single checkpoint without a name gets the name ``None``.

    Args:
        texts: Values of ``--checkpoint``: ``NAME=CHECKPOINT``, or a checkpoint, which gets its file name as name.

    Raises:
        ValueError: If two models have the same name.
    """
    models: dict[str | None, str | None] = {}
    for text in texts or [None]:
        named = re.fullmatch(r'([\w.-]{1,64})=(.+)', text or '')
        if named and not os.path.exists(text):
            name, checkpoint = named.groups()
        else:
            name, checkpoint = (_stem(text) if len(texts or ()) > 1 else None), text
        if name in models:
            raise ValueError(f'--checkpoint {text}: another model is named {name}. Fix: write NAME={checkpoint}')
        models[name] = checkpoint
    return models


def _stem(text: str) -> str:
    name = re.split(r'[/\\]', text.rstrip('/\\'))[-1] or DEFAULT_MODEL
    stem, suffix = os.path.splitext(name)
    return stem if suffix.lower() in (*CHECKPOINT_SUFFIXES, '.onnx') else name


def _devices(device: str | None, workers: int) -> list[str | None]:
    if workers == 1 or device == 'cpu':
        return [device] * workers
    try:
        import torch

        count = torch.cuda.device_count()
    except ModuleNotFoundError:  # ONNX models run without torch
        count = 0
    if device is None and not count:
        return ['cpu'] * workers
    if device not in (None, 'cuda'):
        raise ValueError(f'--workers {workers}: --device {device} is a single device. Fix: leave out --device')
    if count < workers:
        raise ValueError(f'--workers {workers}: this machine has {count} GPUs. Fix: --workers {max(1, count)}')
    return [f'cuda:{index}' for index in range(workers)]


def _bytes(text: str) -> int:
    number, unit = (text[:-1], text[-1].upper()) if text[-1:].upper() in _UNITS else (text, 'M')
    try:
        size = int(float(number) * _UNITS[unit])
    except (ValueError, OverflowError):
        size = 0
    if size <= 0:
        raise argparse.ArgumentTypeError(f'{text!r}: must be a size such as 512M or 8G')
    return size
