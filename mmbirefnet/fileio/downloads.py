"""Downloads from plain URLs: files appear complete, and interrupted downloads continue."""

from __future__ import annotations

import errno
import glob
import hashlib
import http.client
import os
import secrets
import shutil
import urllib.error
import urllib.request
from pathlib import Path

from filelock import FileLock
from torch.hub import tqdm

from mmbirefnet.version import __version__

_SECONDS = 60  # without a byte
_BLOCK = 1 << 20


def download_file(url: str, path: Path, progress: bool = False) -> None:
    """Download a file that does not exist yet.

    After an interruption, the received bytes stay beside ``path`` as ``.<name>.….partial``. The next download continues
    if the server confirms that the file is the same. Several processes wait for each other.

    Args:
        url: ``http://`` or ``https://``.
        path: The file to write. It appears when all announced bytes have arrived.
        progress: Whether to show a progress bar.

    Raises:
        OSError: If the file cannot be downloaded, is truncated, or does not fit on the disk; the message gives the fix.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path.with_name(f'.{path.name}.lock'), 'ab'):
            pass
    except OSError as error:
        raise OSError(
            f'{url}: cannot be saved ({error}). Fix: set TORCH_HOME to a folder that you may write to'
        ) from error
    with FileLock(path.with_name(f'.{path.name}.lock')):
        if path.is_file():
            return
        try:
            _download(url, path, progress)
        except (OSError, http.client.HTTPException, ValueError) as error:
            arrived = sum(each.stat().st_size for each in _partial_files(path))
            again = f'run it again, which continues after {arrived} bytes' if arrived else 'run it again'
            if getattr(error, 'errno', None) == errno.ENOSPC:
                again = f'make space there and {again}'
            raise OSError(
                f'{url}: cannot be downloaded ({error or type(error).__name__}). Fix: {again}, or put the file at '
                f'{path}'
            ) from error


def _download(url: str, path: Path, progress: bool) -> None:
    partial = next(iter(_partial_files(path)), None)
    start = partial.stat().st_size if partial else 0
    headers = {'User-Agent': f'mmbirefnet/{__version__}', 'Accept-Encoding': 'identity'}
    request = urllib.request.Request(url, headers=headers | ({'Range': f'bytes={start}-'} if start else {}))
    try:
        answer = urllib.request.urlopen(request, timeout=_SECONDS)
    except urllib.error.HTTPError as error:
        error.close()
        if not start or error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        _restart(url, path, progress, partial)
        return
    with answer:
        if answer.headers.get_content_type() == 'text/html':
            raise ValueError('the server sends a web page; give the URL of the file itself')
        target = _partial_name(path, answer)
        if answer.status == http.HTTPStatus.PARTIAL_CONTENT:
            if target != partial or not (answer.headers['Content-Range'] or '').startswith(f'bytes {start}-'):
                _restart(url, path, progress, partial)
                return
        elif partial:  # the server sends the whole file
            partial.unlink()
            start = 0
        size = None if answer.length is None else start + answer.length
        if size is not None and shutil.disk_usage(path.parent).free < size - start:
            raise OSError(errno.ENOSPC, f'no space for {size} bytes in {path.parent}')
        bar = tqdm(total=size, initial=start, disable=not progress, unit='B', unit_scale=True)
        with open(target, 'ab') as file, bar:
            while block := answer.read(_BLOCK):
                file.write(block)
                bar.update(len(block))
            file.flush()
            os.fsync(file.fileno())
    arrived = target.stat().st_size
    if size is not None and arrived != size:
        raise OSError(f'cut off after {arrived} of {size} bytes')
    os.replace(target, path)


def _restart(url: str, path: Path, progress: bool, partial: Path) -> None:
    """Start again, because the received bytes are from another file."""
    partial.unlink()
    _download(url, path, progress)


def _partial_files(path: Path) -> list[Path]:
    return sorted(path.parent.glob(f'.{glob.escape(path.name)}.*.partial'))


def _partial_name(path: Path, answer: http.client.HTTPResponse) -> Path:
    """Path for the bytes of a response, by the version of the file; a new one if the server gives no version."""
    version = answer.headers['ETag'] or answer.headers['Last-Modified'] or secrets.token_hex(8)
    return path.with_name(f'.{path.name}.{hashlib.sha256(version.encode()).hexdigest()[:16]}.partial')
