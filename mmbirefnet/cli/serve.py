"""``mmbirefnet serve``: a page in the browser, and an HTTP API."""

from __future__ import annotations

import argparse

from .options import add_model_arguments, inferencer_of

LOOPBACK = '127.0.0.1'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        '--host', default=LOOPBACK, help='address to listen on; 0.0.0.0 for all of this machine (default: %(default)s)'
    )
    parser.add_argument('--port', type=int, default=8000, help='0 takes a free one (default: %(default)s)')
    group = parser.add_argument_group('limits')
    group.add_argument(
        '--max-upload', type=float, default=32, metavar='MIB', help='of a request (default: %(default)s)'
    )
    group.add_argument('--max-pixels', type=float, default=50, metavar='MP', help='of an image (default: %(default)s)')
    group.add_argument(
        '--max-size', type=int, default=2048, metavar='N', help="side of the model's input (default: %(default)s)"
    )
    group.add_argument(
        '--queue', type=int, default=8, metavar='N', help='requests under way; 429 beyond (default: %(default)s)'
    )
    group.add_argument(
        '--upload-seconds', type=float, default=30, metavar='S', help='time for an upload (default: %(default)s)'
    )
    add_model_arguments(parser)


def run(args: argparse.Namespace) -> int:
    try:
        from mmbirefnet.server.app import create_app
        from mmbirefnet.server.limits import Limits
        from mmbirefnet.server.running import listen, serve
    except ModuleNotFoundError as error:
        raise ImportError(f"mmbirefnet serve needs {error.name}: pip install 'mmbirefnet[server]'") from error
    limits = Limits(
        upload_bytes=int(args.max_upload * 2**20),
        upload_seconds=args.upload_seconds,
        megapixels=args.max_pixels,
        input_size=args.max_size,
        queue=args.queue,
    )
    with listen(args.host, args.port) as listener:
        app = create_app(inferencer_of(args), limits)
        host, port = listener.getsockname()[:2]
        address = f'[{host}]' if ':' in host else host
        print(f'http://{address}:{port} (API: /docs, /openapi.json); Ctrl-C ends it', flush=True)
        serve(app, listener)
    return 0
