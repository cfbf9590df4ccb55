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
# Without settings of the allocator, and without a GPU.
SETTINGS = ('MALLOC_', 'GLIBC_TUNABLES', 'LD_PRELOAD', 'THP_MEM_ALLOC_ENABLE')
ENV = {k: v for k, v in os.environ.items() if not k.startswith(SETTINGS)} | {'CUDA_VISIBLE_DEVICES': ''}
PROGRAM = """
import ctypes
import resource
import sys

ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)  # no huge pages, also where the system uses them for all programs

from mmbirefnet.utils.allocator import keep_freed_memory

if sys.argv[1] == 'keep':
    print(keep_freed_memory())
import torch


def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(64 * 2**20, dtype=torch.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


# The first ones may each take new memory: a freed block can lack the few bytes that aligning the next one takes, until
# blocks that lie side by side have been joined.
print(min(faults() for _ in range(50)))
"""


def run(mode, **variables):
    """Run the program and return what it prints."""
    result = subprocess.run(
        [sys.executable, '-c', PROGRAM, mode], env={**ENV, **variables}, capture_output=True, text=True, check=True
    )
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
import sys
from argparse import Namespace

from mmbirefnet.utils import allocator


def keep_then_exit(keep=allocator.keep_freed_memory):
    kept = keep()
    import torch

    sys.exit(f'{kept}, offset {torch.ones(64 * 2**20, dtype=torch.uint8).data_ptr() % 4096}')


sys.path[:0] = ['tools', 'tools/analysis_tools']
allocator.keep_freed_memory = keep_then_exit
"""
TRAININGS = {
    'tools/train.py': "import train; sys.argv[1:] = ['any.py']; train.main()",
    'mmbirefnet finetune': "from mmbirefnet.cli.main import main; main(['finetune', 'any', '-o', 'run'])",
    'benchmark.py': "import benchmark; benchmark.work(None, Namespace(mode='train', device='cpu', threads=None))",
}


@pytest.mark.parametrize('training', TRAININGS)
def test_trainings_on_a_cpu_keep_memory_and_use_huge_pages(training):
    program = [sys.executable, '-c', CALL + TRAININGS[training]]
    result = subprocess.run(program, env=ENV, capture_output=True, text=True, cwd=ROOT)
    assert result.stderr.strip().splitlines()[-1] == 'True, offset 0'


def test_benchmark_measures_inference_with_the_allocator_of_the_system():
    inference = "import benchmark; benchmark.work(None, Namespace(mode='inference', device='cpu', threads=None))"
    with_stub = CALL + "import benchmark; benchmark.Steps = lambda args: sys.exit('not called'); " + inference
    result = subprocess.run([sys.executable, '-c', with_stub], env=ENV, capture_output=True, text=True, cwd=ROOT)
    assert result.stderr.strip().splitlines()[-1] == 'not called'
