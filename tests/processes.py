"""Command lines in processes of their own, which can be killed; what they import is imported once for all of them."""

import contextlib
import multiprocessing
import os
import runpy
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
_context = multiprocessing.get_context('forkserver')
_context.set_forkserver_preload(
    ['mmbirefnet.models', 'mmbirefnet.datasets', 'mmbirefnet.engine', 'mmbirefnet.utils.cli']
)


def _run(script, arguments, folder, environment):
    os.chdir(folder)
    os.environ.update(environment)
    sys.argv = [script, *arguments]
    with open('output.txt', 'a') as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    runpy.run_path(script, run_name='__main__')


def start(folder, script, *arguments, **environment):
    """Start ``python script arguments`` in a folder, where ``output.txt`` gets what it prints."""
    script = str(ROOT / script)
    process = _context.Process(target=_run, args=(script, [str(each) for each in arguments], str(folder), environment))
    process.start()
    return process


def finish(process, folder, status=0):
    """Wait for a process, whose exit status is known."""
    process.join(120)
    output = Path(folder, 'output.txt').read_text()
    assert process.exitcode == status, f'{process.exitcode}: {output[-3000:]}'
    return output


def wait_for(condition, seconds=60):
    """Wait until a condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, 'waited for too long'
        time.sleep(0.02)


def children_of(pid):
    """Numbers of the processes that a process has started, and those that these have."""
    children = [
        int(child) for tasks in Path(f'/proc/{pid}/task').glob('*/children') for child in tasks.read_text().split()
    ]
    return children + [each for child in children for each in children_of(child)]


def alive(pids):
    """Those of the processes that run."""
    running = []
    for pid in pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] != 'Z':
                running.append(pid)
    return running
