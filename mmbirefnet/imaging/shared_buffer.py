"""Shared memory that passes images from one process to another."""

from __future__ import annotations

import math
import mmap
import os
import tempfile

import numpy as np

KEPT_BYTES = 64 * 2**20  # shared memory that a worker keeps for its next image: 22 megapixels


class SharedBuffer:
    """Memory shared by two processes: one writes arrays to it, the other reads them.

    The kernel zeroes new memory, and each process maps it page by page, which takes longer than copying an image. So
    a buffer is reused for many images.

    Args:
        file: Descriptor of the memory, which is closed with the buffer.
    """

    def __init__(self, file: int) -> None:
        self.file, self.used = file, 0
        self._map = mmap.mmap(file, os.fstat(file).st_size)

    @classmethod
    def new(cls) -> SharedBuffer:
        """Create a buffer of ``KEPT_BYTES`` that cannot shrink: reading beyond its new end would kill the process."""
        with memory_file() as memory:
            memory.truncate(KEPT_BYTES)
            if hasattr(os, 'memfd_create'):
                import fcntl

                fcntl.fcntl(memory, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL)
            return cls(os.dup(memory.fileno()))

    def empty(self, shape, dtype=np.uint8) -> np.ndarray:
        """Return an array after those that were added; the buffer grows if needed."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        if (end := self.used + size) > len(self._map):
            os.ftruncate(self.file, 2 * end)  # pages that are never written use no memory
            self._map = mmap.mmap(self.file, 2 * end)
        return np.frombuffer(self._map, dtype, size, self.used).reshape(shape)

    def add(self, array: np.ndarray) -> None:
        """Append an array; it is not copied if it is the one that :meth:`empty` returned."""
        place = self.empty(array.shape)
        if array.ctypes.data != place.ctypes.data:
            place[...] = array
        self.used += array.nbytes

    def take(self, size: int) -> np.ndarray:
        """Return the first bytes as an array that later writes to the buffer do not change."""
        if size <= KEPT_BYTES:
            return np.frombuffer(self._map, np.uint8, size).copy()
        return np.frombuffer(mmap.mmap(self.file, size, access=mmap.ACCESS_COPY), np.uint8)  # closed with the array

    def close(self) -> None:
        os.close(self.file)


def memory_file():
    """Open a file without a name, in memory if the system supports it."""
    if not hasattr(os, 'memfd_create'):
        return tempfile.TemporaryFile()
    return os.fdopen(os.memfd_create('image', os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING), 'w+b')
