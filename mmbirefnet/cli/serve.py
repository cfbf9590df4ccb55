"""``mmbirefnet serve``: a page in the browser, and an HTTP API."""

from __future__ import annotations

import argparse
import logging
import os

from .options import add_model_arguments, inferencer_of

LOOPBACK = '127.0.0.1'
API_KEY_VARIABLE = 'MMBIREFNET_API_KEY'
_UNITS = {'K': 2**10, 'M': 2**20, 'G': 2**30}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        '--host', default=LOOPBACK, help='address to listen on; 0.0.0.0 for all of this machine (default: %(default)s)'
    )
    parser.add_argument('--port', type=int, default=8000, help='0 takes a free one (default: %(default)s)')
    group = parser.add_argument_group('access', f'${API_KEY_VARIABLE}: key that requests must carry, if set')
    group.add_argument(
        '--allowed-hosts',
        nargs='+',
        default=(),
        metavar='NAME',
        help='names by which the service may be reached, * for all (default: all; '
        'only localhost, 127.0.0.1 and [::1] at a loopback address)',
    )
    group.add_argument(
        '--cors', nargs='+', default=(), metavar='ORIGIN', help='sites whose pages may use the service, * for all'
    )
    group = parser.add_argument_group('limits')
    group.add_argument(
        '--memory',
        type=_bytes,
        default='8G',
        metavar='SIZE',
        help='for all requests together, beside the model: such as 512M or 8G (default: %(default)s)',
    )
    group.add_argument(
        '--max-upload', type=float, default=32, metavar='MIB', help='of a request (default: %(default)s)'
    )
    group.add_argument('--max-pixels', type=float, default=50, metavar='MP', help='of an image (default: %(default)s)')
    group.add_argument(
        '--max-size', type=int, default=2048, metavar='N', help="side of the model's input (default: %(default)s)"
    )
    group.add_argument(
        '--queue',
        type=int,
        default=8,
        metavar='N',
        help='requests that wait or are processed; 429 beyond (default: %(default)s)',
    )
    group.add_argument(
        '--upload-seconds', type=float, default=30, metavar='S', help='time for an upload (default: %(default)s)'
    )
    group.add_argument(
        '--decode-seconds', type=float, default=10, metavar='S', help='time to decode an image (default: %(default)s)'
    )
    group.add_argument(
        '--seconds', type=float, default=120, metavar='S', help='from upload to answer (default: %(default)s)'
    )
    group = parser.add_argument_group('throughput')
    group.add_argument(
        '--decoders', type=int, default=1, metavar='N', help='processes that decode images (default: %(default)s)'
    )
    group.add_argument(
        '--batch',
        type=int,
        default=1,
        metavar='N',
        help='waiting requests that the model predicts at once (default: %(default)s)',
    )
    add_model_arguments(parser)


def run(args: argparse.Namespace) -> int:
    try:
        from mmbirefnet.server.app import create_app
        from mmbirefnet.server.limits import Limits
        from mmbirefnet.server.running import listen, serve
    except ModuleNotFoundError as error:
        raise ImportError(f"mmbirefnet serve needs {error.name}: pip install 'mmbirefnet[server]'") from error
    for option, value in (('--max-upload', args.max_upload), ('--max-pixels', args.max_pixels)):
        if not 0 < value < float('inf'):
            raise ValueError(f'{option} {value}: must be more than 0 and finite')
    limits = Limits(
        upload_bytes=int(args.max_upload * 2**20),
        upload_seconds=args.upload_seconds,
        megapixels=args.max_pixels,
        input_size=args.max_size,
        queue=args.queue,
        memory=args.memory,
        decoders=args.decoders,
        decode_seconds=args.decode_seconds,
        seconds=args.seconds,
        batch=args.batch,
    )
    logging.basicConfig(format='%(asctime)s %(levelname)s %(message)s')
    logging.getLogger('mmbirefnet.server').setLevel(logging.INFO)
    with listen(args.host, args.port) as listener:
        app = create_app(
            inferencer_of(args),
            limits,
            allowed_hosts=args.allowed_hosts,
            cors=args.cors,
            api_key=os.environ.get(API_KEY_VARIABLE),
        )
        host, port = listener.getsockname()[:2]
        address = f'[{host}]' if ':' in host else host
        print(f'http://{address}:{port} (API: /openapi.json); Ctrl-C ends it', flush=True)
        serve(app, listener)
    return 0


def _bytes(text: str) -> int:
    number, unit = (text[:-1], text[-1].upper()) if text[-1:].upper() in _UNITS else (text, 'M')
    try:
        size = int(float(number) * _UNITS[unit])
    except (ValueError, OverflowError):
        size = 0
    if size <= 0:
        raise argparse.ArgumentTypeError(f'{text!r}, must be a size such as 512M or 8G')
    return size
