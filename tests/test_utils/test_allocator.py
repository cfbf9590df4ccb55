"""Freed memory that a process keeps, by the page faults of further allocations."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason='mallopt is a function of glibc')
ROOT = Path(__file__).parents[2]
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


# Ends the program at its call, and prints the offset of a large tensor in its page: 0 for huge pages.
CALL = """
import runpy
import sys

import mmbirefnet.utils.allocator


def keep_freed_memory():
    import torch

    sys.exit(f'called, offset {torch.ones(64 * 2**20, dtype=torch.uint8).data_ptr() % 4096}')


mmbirefnet.utils.allocator.keep_freed_memory = keep_freed_memory
program, *arguments = sys.argv[1:]
sys.argv[1:] = arguments
run = runpy.run_path if program.endswith('.py') else runpy.run_module
run(program, run_name='__main__')
"""


@pytest.mark.parametrize(
    'program', [['tools/train.py', 'any.py'], ['mmbirefnet.cli.main', 'finetune', 'any', '-o', 'run']]
)
def test_trainings_on_a_cpu_call_it_with_huge_pages(program):
    env = {k: v for k, v in os.environ.items() if k != 'THP_MEM_ALLOC_ENABLE'}
    result = subprocess.run(
        [sys.executable, '-c', CALL, *program],
        env={**env, 'CUDA_VISIBLE_DEVICES': ''},
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert result.stderr.strip().splitlines()[-1] == 'called, offset 0'
