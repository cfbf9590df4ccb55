"""Freed memory that a process keeps, by the page faults of further allocations."""

import os
import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason='mallopt is a function of glibc')
PAGES = 64 * 2**20 // os.sysconf('SC_PAGE_SIZE')
PROGRAM = """
import resource
import sys

from mmbirefnet.utils.allocator import keep_freed_memory

if sys.argv[1] == 'keep':
    print(keep_freed_memory())
import torch


def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(64 * 2**20, dtype=torch.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


faults()
print(min(faults() for _ in range(3)))
"""


def run(mode, **variables):
    """Run the program; ``THP_MEM_ALLOC_ENABLE=0`` leaves pages at their usual size, so that faults can be counted."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(('MALLOC_', 'GLIBC_TUNABLES', 'LD_PRELOAD'))}
    env = {**inherited, 'THP_MEM_ALLOC_ENABLE': '0', **variables}
    result = subprocess.run([sys.executable, '-c', PROGRAM, mode], env=env, capture_output=True, text=True, check=True)
    return result.stdout.split()


def test_memory_is_used_again():
    kept, faults = run('keep')
    assert kept == 'True'
    assert int(faults) < PAGES / 100
    assert int(run('default')[0]) >= PAGES  # without the call, each allocation fetches all pages again


@pytest.mark.parametrize('variable', ['MALLOC_TOP_PAD_', 'GLIBC_TUNABLES'])
def test_settings_of_the_user_stay(variable):
    value = {'MALLOC_TOP_PAD_': '131072', 'GLIBC_TUNABLES': 'glibc.malloc.top_pad=131072'}[variable]
    kept, faults = run('keep', **{variable: value})
    assert kept == 'False'
    assert int(faults) >= PAGES
