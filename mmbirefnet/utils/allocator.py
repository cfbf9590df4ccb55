"""Settings of the allocator for training on a CPU."""

import ctypes
import os
import platform

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # glibc, malloc.h


def keep_freed_memory() -> bool:
    """Keep freed memory in the process, so that the next training step uses it again.

    By default, glibc returns large freed blocks to the system, and each step has to fetch and clear them again. With
    huge pages (``THP_MEM_ALLOC_ENABLE=1``), torch also leaves less unusable memory between its tensors. See "Training
    step" in ``docs/en/notes/performance.md``.

    Both hold until the process ends, and for the processes that it starts by forking. Call it in programs, not in
    libraries, and before torch creates its first tensor, which reads the variable. Imports of transformers' optimizers,
    such as mmengine's, create one.

    Returns:
        Whether freed memory is kept: not without glibc, and not if ``GLIBC_TUNABLES`` or a variable ``MALLOC_…`` is
        set. A value of ``THP_MEM_ALLOC_ENABLE`` stays as it is.
    """
    os.environ.setdefault('THP_MEM_ALLOC_ENABLE', '1')
    if platform.libc_ver()[0] != 'glibc':
        return False
    if any(name == 'GLIBC_TUNABLES' or name.startswith('MALLOC_') for name in os.environ):
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, -1))
