"""Decode untrusted image files in worker processes, under limits on time, memory and pixels.

So a defect in a decoder cannot hang or crash the calling process, or fill its memory. A worker is a Python process in a
session of its own, which imports only Pillow, OpenCV and NumPy. It receives the descriptor of an open file over a
socket, and returns the pixels in shared memory, which is reused for its next image.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import warnings
import weakref
from pathlib import Path

import numpy as np

from mmbirefnet.imaging.frames import as_sequence
from mmbirefnet.imaging.read import MAX_PIXELS, LoadedImage, LoadedSequence, open_regular_file
from mmbirefnet.imaging.sandbox_worker import ERRORS, REPLY_BYTES, TEXT
from mmbirefnet.imaging.shared_buffer import KEPT_BYTES, SharedBuffer, memory_file

START_SECONDS = 60  # time limit for the imports of a worker: about 0.3 s, but much longer on a busy machine
_START = (
    'import json, sys; sys.path[:] = json.loads(sys.argv[1]); '
    'from mmbirefnet.imaging.sandbox_worker import run_worker; run_worker(int(sys.argv[2]), int(sys.argv[3]))'
)
_decoders: weakref.WeakSet[ImageDecoder] = weakref.WeakSet()


class ImageDecoder:
    """Reads image files in worker processes; several threads may call it.

    Workers start when they are first needed, and are reused. Each keeps up to 64 MiB of shared memory, since allocating
    memory is slow. A worker that exceeds a limit or crashes is killed, together with all processes that it started, and
    a new one decodes the next image.

    Args:
        workers: Number of processes, and thus of images that are decoded at once; further calls wait.
        seconds: Time limit for decoding an image (wall-clock time).
        memory: Largest number of bytes that a worker may allocate for an image. Small images have a lower limit: 64
            bytes per pixel plus 256 MiB.
        max_pixels: Largest image, in pixels.

    Raises:
        ValueError: If an option is not positive.
        OSError: If the system has no POSIX processes and sockets (Windows).
    """

    def __init__(
        self, workers: int = 1, seconds: float = 10.0, memory: int = 4 * 2**30, max_pixels: int = MAX_PIXELS
    ) -> None:
        for name, value in dict(workers=workers, seconds=seconds, memory=memory, max_pixels=max_pixels).items():
            if not 0 < value < float('inf'):
                raise ValueError(f'{name}={value!r}, must be more than 0')
        if not hasattr(socket, 'send_fds'):
            raise OSError('decoding in another process needs a POSIX system. Fix: use --no-sandbox, or no decoder')
        self.workers, self.seconds, self.memory, self.max_pixels = int(workers), seconds, int(memory), int(max_pixels)
        self.closed = False
        self._renew()
        _decoders.add(self)

    def _renew(self) -> None:
        self._slots = threading.BoundedSemaphore(self.workers)
        self._lock = threading.Lock()
        self._idle: list[_Worker] = []
        self._all: set[_Worker] = set()
        self._finalizer = weakref.finalize(self, _kill_all, self._all, os.getpid())

    def _forget_parent(self) -> None:
        """Give up the workers in a forked process, since they belong to the parent."""
        self._finalizer.detach()
        for worker in self._all:
            worker.forget()
        self._renew()

    def read(
        self, source: str | os.PathLike | bytes, name: str | None = None, frames: str = 'first'
    ) -> LoadedImage | LoadedSequence:
        """Read an image, as :func:`~mmbirefnet.imaging.read.load_image` does.

        Args:
            source: Path, or the bytes of a file.
            name: Name in messages; by default the path.
            frames: ``'all'`` reads all frames or pages, as :func:`~mmbirefnet.imaging.frames.load_frames` does, under
                the same limits on time and pixels as one image.

        Raises:
            TimeoutError: If decoding takes longer than ``seconds``. It is an ``OSError``.
            OSError: If the file is missing, damaged or not an image, or decoding it crashes or needs too much memory.
            TooManyPixelsError: If the image has more than ``max_pixels``. It is a ``ValueError``.
            ValueError: If pixel values are out of range, or the decoder is closed.
            TypeError: If ``source`` is neither a path nor bytes.
        """
        image = self._ask(source, name, frames)
        image.path = Path(source) if isinstance(source, (str, os.PathLike)) else None
        return image

    def count_frames(self, source: str | os.PathLike | bytes, name: str | None = None) -> int:
        """Count frames or pages like :func:`~mmbirefnet.imaging.frames.count_frames`; errors as :meth:`read`."""
        return self._ask(source, name, 'count')

    def _ask(self, source, name: str | None, task: str):
        if isinstance(source, (bytes, bytearray, memoryview)):
            name, file = name or 'bytes', memory_file()
            file.write(source)
            file.flush()
        elif isinstance(source, (str, os.PathLike)):
            name, file = name or str(source), open_regular_file(Path(source))
        else:
            raise TypeError(f'source must be a path or bytes, not {type(source).__name__}')
        with file, self._slots:
            worker = self._take()
            try:
                return worker.read(file.fileno(), name, self.seconds, self.memory, self.max_pixels, task)
            finally:
                self._give_back(worker)

    def _take(self) -> _Worker:
        with self._lock:
            if self.closed:
                raise ValueError('the image decoder is closed')
            while self._idle:
                worker = self._idle.pop()
                if worker.process.poll() is None:  # the system may have killed it for lack of memory
                    return worker
                self._all.discard(worker)
                worker.kill()
        worker = _Worker()
        with self._lock:
            self._all.add(worker)
        return worker

    def _give_back(self, worker: _Worker) -> None:
        with self._lock:
            if worker.usable and not self.closed:
                self._idle.append(worker)
            else:
                self._all.discard(worker)
                worker.kill()

    def close(self) -> None:
        """End all workers; calls that wait for an image raise ``OSError``."""
        with self._lock:
            self.closed = True
            self._idle.clear()
        self._finalizer()

    def __enter__(self) -> ImageDecoder:
        return self

    def __exit__(self, *_) -> None:
        self.close()


def _kill_all(workers: set[_Worker], owner: int) -> None:
    if os.getpid() == owner:
        for worker in list(workers):
            worker.kill()


def _after_fork() -> None:
    for decoder in list(_decoders):
        decoder._forget_parent()


if hasattr(os, 'register_at_fork'):
    os.register_at_fork(after_in_child=_after_fork)


class _Worker:
    """The parent's side of one worker process; used by one thread at a time."""

    def __init__(self) -> None:
        self.usable = False
        self.buffer: SharedBuffer | None = None
        self.socket, theirs = socket.socketpair()
        command = (sys.executable, '-c', _START, json.dumps(sys.path), str(theirs.fileno()), str(os.getpid()))
        settings = dict.fromkeys(('OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS', 'MKL_NUM_THREADS'), '1')
        # With large pages, the memory of an image needs tens of page faults instead of thousands.
        tunables = (os.environ.get('GLIBC_TUNABLES'), 'glibc.malloc.hugetlb=1')
        settings['GLIBC_TUNABLES'] = ':'.join(filter(None, tunables))
        with theirs, tempfile.TemporaryFile() as messages:
            # In a session of its own, Ctrl-C does not reach it, and its whole process group can be killed.
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=messages,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
                env=os.environ | settings,
            )
            theirs.close()
            try:
                self._receive(time.monotonic() + START_SECONDS)
            except BaseException as error:
                self.kill()
                if not isinstance(error, OSError):
                    raise
                messages.seek(0)
                reason = messages.read()[-TEXT:].decode(errors='replace').strip() or repr(error)
                raise RuntimeError(f'the process that decodes images did not start: {reason}') from error
        self.usable = True

    def read(
        self, file: int, name: str, seconds: float, memory: int, max_pixels: int, task: str
    ) -> LoadedImage | LoadedSequence | int:
        end = time.monotonic() + seconds
        request = dict(name=name[-TEXT:], seconds=seconds, memory=memory, max_pixels=max_pixels, task=task)
        self.usable = False  # until the reply has arrived: after an exception, the state of the worker is unknown
        try:
            files = [file]
            if self.buffer is None:
                self.buffer = SharedBuffer.new()
                files.append(self.buffer.file)
            socket.send_fds(self.socket, [json.dumps(request).encode() + b'\n'], files)
            reply = self._receive(end)
        except TimeoutError as error:
            raise TimeoutError(f'{name}: decoding took longer than {seconds:g} s and was stopped') from error
        except OSError as error:
            raise OSError(f'{name}: {self._death()}') from error
        self.usable = reply.get('error') != 'MemoryError'
        try:
            image = _image_of(reply, self.buffer, name, max_pixels)
        finally:
            if os.fstat(self.buffer.file).st_size > KEPT_BYTES:
                self._drop_buffer()
        for text in reply['warnings']:
            warnings.warn(text, stacklevel=4)
        return image

    def _receive(self, end: float) -> dict:
        data = b''
        while not data.endswith(b'\n'):
            self.socket.settimeout(max(1e-3, end - time.monotonic()))
            part = self.socket.recv(REPLY_BYTES)
            data += part
            if not part or len(data) > REPLY_BYTES:
                raise ConnectionError('the process ended')
        return json.loads(data)

    def _death(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(1)
        code = self.process.returncode
        if code == -signal.SIGXCPU:
            return 'decoding took too much processor time and was stopped'
        how = signal.Signals(-code).name if code is not None and code < 0 else f'exit status {code}'
        return f'decoding crashed ({how}): a damaged image, or a defect of its decoder'

    def _drop_buffer(self) -> None:
        if self.buffer is not None:
            self.buffer.close()
            self.buffer = None

    def forget(self) -> None:
        """Close the descriptors in a forked process; the parent keeps its own."""
        self.socket.close()
        self._drop_buffer()

    def kill(self) -> None:
        """Kill the process and all processes that it started."""
        self.usable = False
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)  # wakes a thread that waits for a reply
        # The group has the id of the process, which is not reused until the process is waited for.
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.socket.close()


def _image_of(reply: dict, buffer: SharedBuffer, name: str, max_pixels: int) -> LoadedImage | LoadedSequence | int:
    if (kind := reply.get('error')) == 'MemoryError':
        raise OSError(f'{name}: decoding needs more memory than allowed for {reply["size"]}, and was stopped')
    if kind:
        # The message contains the name of the image, which may be truncated.
        raise ERRORS.get(kind, OSError)(reply['message'])
    if 'count' in reply:
        return reply['count']
    shapes = reply['shapes']
    areas = [height * width for height, width, *_ in shapes]
    if min(areas) < 1 or sum(areas) > max_pixels or any(alpha not in (0, 1) or icc < 0 for _, _, alpha, icc in shapes):
        raise OSError(f'{name}: decoding returned images of {shapes[:5]}')
    sizes = [(height * width * 3, height * width * alpha, icc) for height, width, alpha, icc in shapes]
    if (size := sum(map(sum, sizes))) > (found := os.fstat(buffer.file).st_size):
        raise OSError(f'{name}: decoding returned {found} bytes instead of {size}')
    parts = iter(np.split(buffer.take(size), np.cumsum(sizes)[:-1]))
    frames = []
    for height, width, alpha, _ in shapes:
        rgb, opacity, icc = next(parts), next(parts), next(parts)
        opacity = opacity.reshape(height, width) if alpha else None
        frames.append(LoadedImage(rgb.reshape(height, width, 3), opacity, icc.tobytes() or None, name))
    durations, plays = zip(*reply['times'])
    return as_sequence(frames, durations, plays[0], name, None)
