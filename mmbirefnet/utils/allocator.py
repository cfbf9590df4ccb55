"""Settings of the allocator for training on a CPU."""

import ctypes
import os
import platform

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # glibc, malloc.h


def keep_freed_memory() -> bool:
    """Keep freed memory in the process, so that the next training step uses it again.

    By default, glibc returns large freed blocks to the system, and each step has to fetch and clear them again.
    Programs that call this function also set ``THP_MEM_ALLOC_ENABLE=1`` before they import torch: with huge pages,
    torch leaves less unusable memory between its tensors. See "Training step" in ``docs/en/notes/performance.md``.

    The setting holds until the process ends, and for processes that are forked from it. Call it in programs, not in
    libraries.

    Returns:
        Whether it was set: not without glibc, and not if ``GLIBC_TUNABLES`` or a variable ``MALLOC_…_`` exists.
    """
    if platform.libc_ver()[0] != 'glibc':
        return False
    if any(name == 'GLIBC_TUNABLES' or name.startswith('MALLOC_') for name in os.environ):
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, -1))
