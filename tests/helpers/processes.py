"""Command lines in processes of their own, which can be killed; what they import is imported once for all of them."""

import contextlib
import multiprocessing
import os
import runpy
import socket
import sys
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]
_context = multiprocessing.get_context('forkserver')
_context.set_forkserver_preload(
    [
        f'{package}.{name}'
        for package in ('mmbirefnet', 'mmseg')
        for name in ('models', 'datasets', 'engine', 'evaluation', 'visualization')
    ]
    + ['mmbirefnet.engine.launch', 'matplotlib.pyplot']
)


def _run(script, arguments, folder, output, environment):
    os.chdir(folder)
    os.environ.update(environment)
    sys.path[:0] = [folder, *environment.get('PYTHONPATH', '').split(':')]
    sys.argv = [script, *arguments]
    with open(output, 'w') as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    runpy.run_path(script, run_name='__main__')


def start(folder, script, *arguments, output='output.txt', **environment):
    """Start ``python script arguments`` in a folder, where a file gets what it prints."""
    script, arguments = str(ROOT / script), [str(each) for each in arguments]
    process = _context.Process(target=_run, args=(script, arguments, str(folder), output, environment))
    process.output = Path(folder, output)
    process.start()
    return process


def finish(process, status=0):
    """Wait for a process, whose exit status is known; what it printed."""
    process.join(900)  # seconds; far more than it takes
    output = process.output.read_text()
    assert process.exitcode == status, f'{process.exitcode}: {output[-3000:]}'
    return output


def run_forked(function, seconds=60):
    """Exit status of a function in a forked process, which is killed if it takes too long."""
    process = multiprocessing.get_context('fork').Process(target=function)
    process.start()
    process.join(seconds)
    process.kill()
    process.join()
    return process.exitcode


def free_port():
    """Number of a port that nobody listens at."""
    with socket.socket() as listener:
        listener.bind(('127.0.0.1', 0))
        return str(listener.getsockname()[1])


def wait_for(condition, seconds=60):
    """Wait until a condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, 'waited for too long'
        time.sleep(0.02)


def children_of(pid):
    """Numbers of the processes that a process has started, and those that these have."""
    return [child.pid for child in psutil.Process(pid).children(recursive=True)]


def alive(pids):
    """Those of the processes that run."""
    running = []
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                running.append(pid)
    return running
