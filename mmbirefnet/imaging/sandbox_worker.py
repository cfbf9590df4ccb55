"""The worker process of :class:`~mmbirefnet.imaging.sandbox.ImageDecoder`: decodes image files under limits."""

from __future__ import annotations

import json
import mmap
import os
import socket
import time
import warnings
from pathlib import Path

import numpy as np

from mmbirefnet.imaging.frames import count_frames, iter_frames
from mmbirefnet.imaging.read import TooManyPixelsError, load_open_image, read_size
from mmbirefnet.imaging.shared_buffer import SharedBuffer

HEADER_BYTES = 256 * 2**20  # memory limit for reading a header, and in addition to that for the pixels
PIXEL_BYTES = 64  # memory limit per pixel; JPEG 2000 needs the most
REPLY_BYTES = 2**18  # largest reply: sizes and times of 2000 frames
TEXT = 1000  # largest number of characters of a message
ERRORS = {'OSError': OSError, 'ValueError': ValueError, 'TooManyPixelsError': TooManyPixelsError}


def run_worker(descriptor: int, parent: int) -> None:
    """Answer requests on a socket until its other end is closed or the parent has ended."""
    import resource
    import select

    import cv2
    from PIL import Image

    from mmbirefnet.imaging.formats import FORMATS

    cv2.setNumThreads(1)
    Image.init()
    Image.ID[:] = [
        format for format in Image.ID if format in FORMATS
    ]  # no other plugin, also in libraries that open images
    for format in set(Image.OPEN) - set(FORMATS):
        del Image.OPEN[format]
    with socket.socket(fileno=descriptor) as channel:
        channel.sendall(b'{}\n')
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # decoders print warnings about files
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        base = _allocated()
        buffer = None
        while True:
            while not select.select([channel], [], [], 1.0)[0]:
                if os.getppid() != parent:  # a fork of the parent may still hold the socket open
                    return
            data, files, _, _ = socket.recv_fds(channel, REPLY_BYTES, 2)
            if not data:
                return
            while not data.endswith(b'\n'):
                data += channel.recv(REPLY_BYTES)
            if files[1:]:
                if buffer is not None:
                    buffer.close()
                buffer = SharedBuffer(files[1])
            reply = _decode(files[0], buffer, base, **json.loads(data))
            channel.sendall(json.dumps(reply).encode() + b'\n')


def _decode(
    descriptor: int, buffer: SharedBuffer, base: int, name: str, seconds: float, memory: int, max_pixels: int, task: str
) -> dict:
    """Answer one request; the pixels are written to the buffer.

    Args:
        task: ``'first'`` or ``'all'`` frames, or ``'count'`` for their number.
    """
    import resource

    from PIL import Image

    def allow(bytes_: int) -> None:
        resource.setrlimit(resource.RLIMIT_DATA, (base + min(memory, bytes_), resource.RLIM_INFINITY))

    # If the parent is killed meanwhile, this limit ends the process.
    used = time.process_time()
    resource.setrlimit(resource.RLIMIT_CPU, (int(used + seconds) + 2, resource.RLIM_INFINITY))
    Image.MAX_IMAGE_PIXELS = -(-max_pixels // 2)  # Pillow raises errors above twice this, also for nested images
    size = 'its header'
    with os.fdopen(descriptor, 'rb') as file, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        warnings.simplefilter('ignore', Image.DecompressionBombWarning)
        try:
            allow(HEADER_BYTES)
            height, width = read_size(file, name, max_pixels)
            size = f'{width}x{height} pixels'
            allow(HEADER_BYTES + PIXEL_BYTES * width * height)
            file.seek(0)
            if task == 'count':
                return dict(count=count_frames(file, name, max_pixels), warnings=[])
            shapes, times, buffer.used = [], [], 0
            frames = iter_frames(file, name, None, max_pixels, buffer.empty)
            if task == 'first':
                frames = [(load_open_image(file, name, None, max_pixels, buffer.empty), None, 0)]
            for image, *shown in frames:
                profile = np.frombuffer(image.icc_profile or b'', np.uint8)
                for part in (image.rgb, image.alpha, profile):
                    if part is not None and part.size:
                        buffer.add(part)
                shapes.append((*image.size, int(image.alpha is not None), len(profile)))
                times.append(shown)
        except MemoryError:
            return dict(error='MemoryError', size=size)
        except Exception as error:
            kinds = ('TooManyPixelsError', 'ValueError')
            kind = next((kind for kind in kinds if isinstance(error, ERRORS[kind])), 'OSError')
            return dict(error=kind, message=str(error)[: 2 * TEXT])
    texts = [str(warning.message)[:TEXT] for warning in caught[:5]]
    return dict(shapes=shapes, times=times, warnings=texts)


def _allocated() -> int:
    """Number of bytes of this process that count towards ``RLIMIT_DATA``."""
    try:
        return int(Path('/proc/self/statm').read_text().split()[5]) * mmap.PAGESIZE
    except OSError:
        return 0
