"""Measure the throughput of the HTTP service with and without batches of waiting requests (``--batch``)."""

import argparse
import http.client
import io
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
import uvicorn
from mmengine.config import Config
from PIL import Image

from mmbirefnet.apis import BiRefNetInferencer
from mmbirefnet.registry import MODELS
from mmbirefnet.server.app import create_app
from mmbirefnet.server.limits import Limits
from mmbirefnet.server.running import configure, listen

BOUNDARY = 'boundary-of-parts'


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config of the model; its parameters are random without --checkpoint')
    parser.add_argument('--checkpoint', help='checkpoint of the model')
    parser.add_argument('--device', help='default: a GPU if there is one')
    parser.add_argument('--size', type=int, default=64, help='side of the model input in pixels (default: %(default)s)')
    parser.add_argument(
        '--image', type=int, default=128, help='side of the sent images in pixels (default: %(default)s)'
    )
    parser.add_argument('--clients', type=int, default=16, help='number of clients at once (default: %(default)s)')
    parser.add_argument('--images', type=int, default=96, help='number of images in each run (default: %(default)s)')
    parser.add_argument('--batches', type=int, nargs='+', default=[1, 8], help='values of --batch (default: 1 8)')
    return parser.parse_args()


def body_of(image: np.ndarray, size: int) -> bytes:
    """Form data with an image file, for its mask at an input size."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, 'PNG')
    body = b''
    for head, content in (
        ('name="file"; filename="image.png"', file.getvalue()),
        ('name="output"', b'mask'),
        ('name="size"', str(size).encode()),
    ):
        body += f'--{BOUNDARY}\r\nContent-Disposition: form-data; {head}\r\n\r\n'.encode() + content + b'\r\n'
    return body + f'--{BOUNDARY}--\r\n'.encode()


def post(address: tuple[str, int], body: bytes) -> None:
    connection = http.client.HTTPConnection(*address)
    connection.request('POST', '/api/cut', body, {'Content-Type': f'multipart/form-data; boundary={BOUNDARY}'})
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    if answer.status != 200:
        raise RuntimeError(f'status {answer.status}: {content[:200]!r}')


def measure(inferencer: BiRefNetInferencer, batch: int, args: argparse.Namespace) -> tuple[float, float]:
    """Images per second, and CPU seconds per image of this process: service and clients, without decoding."""
    limits = Limits(queue=args.clients, batch=batch)
    body = body_of(np.random.default_rng(0).integers(0, 256, (args.image, args.image, 3), np.uint8), args.size)
    with listen('127.0.0.1', 0) as listener:
        server = uvicorn.Server(configure(create_app(inferencer, limits)))
        thread = threading.Thread(target=server.run, kwargs={'sockets': [listener]})
        thread.start()
        address = listener.getsockname()[:2]
        try:
            with ThreadPoolExecutor(args.clients) as clients:
                list(clients.map(lambda _: post(address, body), range(args.clients)))  # warm up
                start, cpu = time.perf_counter(), time.process_time()
                list(clients.map(lambda _: post(address, body), range(args.images)))
                return args.images / (time.perf_counter() - start), (time.process_time() - cpu) / args.images
        finally:
            server.should_exit = True
            thread.join()


def main() -> None:
    args = parse_args()
    torch.manual_seed(0)
    model = args.config if args.checkpoint else MODELS.build(Config.fromfile(args.config).model)
    inferencer = BiRefNetInferencer(model, args.checkpoint, args.device)
    first = None
    for batch in args.batches:
        rate, cpu = measure(inferencer, batch, args)
        first = first or (rate, cpu)
        print(
            f'batch {batch}: {rate:.2f} images/s ({rate / first[0]:.2f}x), '
            f'{1000 * cpu:.0f} ms of CPU time per image ({cpu / first[1]:.2f}x)'
        )


if __name__ == '__main__':
    main()
