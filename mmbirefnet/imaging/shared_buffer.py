"""Memory that passes images from one process to another."""

from __future__ import annotations

import math
import mmap
import os
import tempfile

import numpy as np

KEPT_BYTES = 64 * 2**20  # shared memory that a worker keeps for its next image: 22 megapixels


class SharedBuffer:
    """Memory that two processes share: one writes arrays to it, the other takes them.

    The kernel zeroes new memory, and each process maps it page by page, which takes longer than copying an image. So
    a buffer is used for one image after another.

    Args:
        file: Descriptor, which is closed with the buffer.
    """

    def __init__(self, file: int) -> None:
        self.file, self.used = file, 0
        self._map = mmap.mmap(file, os.fstat(file).st_size)

    @classmethod
    def new(cls) -> SharedBuffer:
        """A buffer of ``KEPT_BYTES`` that cannot be made smaller: reading what is cut off would end the process."""
        with memory_file() as memory:
            memory.truncate(KEPT_BYTES)
            if hasattr(os, 'memfd_create'):
                import fcntl

                fcntl.fcntl(memory, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL)
            return cls(os.dup(memory.fileno()))

    def empty(self, shape, dtype=np.uint8) -> np.ndarray:
        """An array behind those that were added; the buffer grows where it must."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        if (end := self.used + size) > len(self._map):
            os.ftruncate(self.file, 2 * end)  # pages that are not written to take no memory
            self._map = mmap.mmap(self.file, 2 * end)
        return np.frombuffer(self._map, dtype, size, self.used).reshape(shape)

    def add(self, array: np.ndarray) -> None:
        """Put an array behind the others, or keep it there if it is the one that :meth:`empty` returned."""
        place = self.empty(array.shape)
        if array.ctypes.data != place.ctypes.data:
            place[...] = array
        self.used += array.nbytes

    def take(self, size: int) -> np.ndarray:
        """The first bytes, which what is written to the buffer later leaves as they are."""
        if size <= KEPT_BYTES:
            return np.frombuffer(self._map, np.uint8, size).copy()
        return np.frombuffer(mmap.mmap(self.file, size, access=mmap.ACCESS_COPY), np.uint8)  # closed with the array

    def close(self) -> None:
        os.close(self.file)


def memory_file():
    """An open file without a name, in memory where the system can."""
    if not hasattr(os, 'memfd_create'):
        return tempfile.TemporaryFile()
    return os.fdopen(os.memfd_create('image', os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING), 'w+b')
