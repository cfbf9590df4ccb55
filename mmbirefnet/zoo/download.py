"""Checkpoints by name: from the catalog, Hugging Face, a URL, or a file.

This module imports neither torch nor the OpenMMLab packages; only downloads from plain URLs need them.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

from mmbirefnet.fileio.atomic import sha256_of
from mmbirefnet.zoo.catalog import (
    CHECKPOINT_SUFFIXES,
    FOLDER_FILES,
    INDEX_SUFFIX,
    SEVERAL_FILES,
    ModelInfo,
    find_checkpoint,
    find_info,
    identify,
    suggest,
)

_URL = re.compile(r'https?://', re.IGNORECASE)
_REPOSITORY = r'(?P<repository>\w[\w.-]*/\w[\w.-]*)'
_HUB_ID = re.compile(rf'{_REPOSITORY}(?:@(?P<revision>[^:]+))?(?::(?P<file>.+))?')
_HUB_URL = re.compile(
    rf'(?i:https?://(?:huggingface\.co|hf\.co))/{_REPOSITORY}/?'
    r'(?:(?:resolve|blob|raw|tree)/(?P<revision>[^/?]+)(?:/(?P<file>[^?#]+))?)?/?(?:[?#].*)?'
)
_AUTHORS_RELEASES = 'https://github.com/ZhengPeng7/BiRefNet/releases/'
_SHA256 = re.compile(r'[0-9a-f]{64}')
NO_HUB = "downloading it needs the package huggingface_hub. Fix: pip install 'mmbirefnet[hub]'"


class _HubFile(NamedTuple):
    """A file on Hugging Face; without ``file``, the parameters with any common name."""

    name: str
    repository: str
    revision: str | None = None
    file: str | None = None

    @property
    def page(self) -> str:
        return f'https://huggingface.co/{self.repository}'

    @property
    def bring_a_file(self) -> str:
        file = self.file or FOLDER_FILES[0]
        local = f'{self.repository.rpartition("/")[2]}/{Path(file).name}'
        return (
            f'To use a local file: download {self.page}/resolve/{self.revision or "main"}/{file} elsewhere, copy it to '
            f'this machine as {local}, and give that path (--checkpoint, in Python weights=)'
        )


def fetch(source: str | os.PathLike) -> Path:
    """Return the file of a checkpoint, and download it if necessary.

    Files of Hugging Face are in the cache of ``huggingface_hub``, which resumes downloads and reads ``HF_HOME``,
    ``HF_ENDPOINT``, ``HF_HUB_OFFLINE`` and ``HF_TOKEN``. Files of other URLs are in the folder of ``torch.hub``.

    Args:
        source: A file, or a folder with ``model.safetensors`` or ``pytorch_model.bin``; a name of the catalog
            (``'BiRefNet_HR'``); a Hugging Face id ``'user/repo'``, ``'user/repo@revision'``, ``'user/repo:file'`` or
            ``'user/repo@revision:file'``; or a URL, optionally followed by ``#sha256=…``. An existing path
            has priority. For a Hugging Face id without a file, ``model.safetensors`` is used, then
            ``pytorch_model.bin``, then the only checkpoint of the repository.

    Raises:
        FileNotFoundError: If the file, model or repository does not exist; the message lists similar names.
        ConnectionError: If the download fails; the message explains how to use a local file.
        PermissionError: If its terms must be accepted first, or the cache cannot be written.
        OSError: If the disk is full.
        ImportError: If huggingface_hub is not installed.
        ValueError: If the SHA-256 of the file differs from the known one.
    """
    text, path = os.fspath(source), Path(source).expanduser()
    info = find_info(text)
    if path.is_file():
        return path
    if path.is_dir():
        try:
            return find_checkpoint(path)
        except FileNotFoundError:  # a clone of the authors' repository has the name of the model
            if info is None:
                raise
    if not is_model_name(text):
        if '/' in text or os.sep in text or path.suffix in (*CHECKPOINT_SUFFIXES, '.onnx'):
            raise FileNotFoundError(f'{text}: no such file')
        raise FileNotFoundError(f'{text}: neither a file here nor a released model; {suggest(text)}')
    if _URL.match(text) and not _HUB_URL.fullmatch(text):
        return _fetch_url(text)
    wanted = _hub_file(text, info)
    print_terms(find_info(wanted.repository))
    path = _fetch_from_hub(wanted)
    digest = re.search(r'#sha256=(\w+)$', text)
    if digest and not (found := sha256_of(path)).startswith(digest[1].lower()):
        raise ValueError(f'{text}: the SHA-256 of {path} is {found}. Fix: check the URL and the hash')
    return path


def is_model_name(text: str) -> bool:
    """Whether a text has the form of a name of the catalog, a Hugging Face id or a URL, without a lookup."""
    if find_info(text) or _URL.match(text):
        return True
    found = _HUB_ID.fullmatch(text)
    return bool(found) and (bool(found['file']) or Path(text).suffix not in ('.py', '.onnx', *CHECKPOINT_SUFFIXES))


def find_cached(info: ModelInfo) -> Path | None:
    """Find the file of a released model in the cache of Hugging Face; ``None`` if it is not cached.

    Raises:
        ImportError: If huggingface_hub is not installed.
    """
    path = _hub(info.name).try_to_load_from_cache(info.repository, info.file)
    return Path(path) if isinstance(path, str) else None


def print_terms(info: ModelInfo | None) -> None:
    """Print, once per process, that the license of a model excludes commercial use; nothing for other models."""
    if info is not None and info.non_commercial:
        _print_once(
            f'{info.name}: the weights are licensed for non-commercial use only ({info.licence.weights}); '
            f'see https://huggingface.co/{info.repository}'
        )


@functools.cache
def _print_once(text: str) -> None:
    print(text, file=sys.stderr)


def _hub(name: str):
    try:
        import huggingface_hub
    except ModuleNotFoundError as error:
        raise ImportError(f'{name}: {NO_HUB}') from error
    return huggingface_hub


def _hub_file(text: str, info: ModelInfo | None) -> _HubFile:
    if info is not None:
        return _HubFile(text, info.repository, None, info.file)
    found = _HUB_URL.fullmatch(text) or _HUB_ID.fullmatch(text)
    revision, file = (found[key] and unquote(found[key]) for key in ('revision', 'file'))
    released = find_info(found['repository'])
    return _HubFile(text, found['repository'], revision, file or (released.file if released else None))


def _fetch_from_hub(wanted: _HubFile) -> Path:
    if wanted.file is not None:
        return _download(wanted)
    for file in FOLDER_FILES:
        try:
            path = _download(wanted._replace(file=file))
        except MissingFileError:
            continue
        except NotCachedError:
            if cached := _find_in_snapshot(wanted):
                return cached
            raise
        with contextlib.suppress(MissingFileError, NotCachedError):  # has the input size, or the original model
            _download(wanted._replace(file='config.json'))
        return path
    try:
        files = _hub(wanted.name).list_repo_files(wanted.repository, revision=wanted.revision)
    except Exception as error:
        raise _explain(error, wanted) from error
    for file in files:
        if file.endswith(INDEX_SUFFIX):
            raise FileNotFoundError(f'{wanted.name}: {wanted.page} has {file}, so {SEVERAL_FILES}')
    preferred = _preferred(files)
    if len(preferred) != 1:
        fix = f'Fix: name the file, such as {wanted.repository}:{preferred[0]}' if preferred else 'None is a checkpoint'
        listed = ', '.join(files) or 'no files'
        raise FileNotFoundError(
            f'{wanted.name}: {wanted.page} has neither {" nor ".join(FOLDER_FILES)}, but {listed}. {fix}'
        )
    return _download(wanted._replace(file=preferred[0]))


def _preferred(files: Iterable[str]) -> list[str]:
    """Checkpoints of the preferred format."""
    return next((found for suffix in CHECKPOINT_SUFFIXES if (found := [f for f in files if f.endswith(suffix)])), [])


def _find_in_snapshot(wanted: _HubFile) -> Path | None:
    """Find the checkpoint of a repository among its files in the cache; ``None`` if there is none, or several."""
    hub = _hub(wanted.name)
    try:
        folder = hub.snapshot_download(wanted.repository, revision=wanted.revision, local_files_only=True)
    except hub.errors.LocalEntryNotFoundError:
        return None
    files = [os.path.relpath(path, folder) for path in Path(folder).rglob('*')]
    found = [file for file in FOLDER_FILES if file in files][:1] or _preferred(files)
    return Path(folder, found[0]) if len(found) == 1 else None


class MissingFileError(FileNotFoundError):
    """Raised if a repository lacks a file."""


class NotCachedError(ConnectionError):
    """Raised if a file is not in the cache, and there is no network."""


def _download(wanted: _HubFile) -> Path:
    hub = _hub(wanted.name)
    arguments = dict(repo_id=wanted.repository, filename=wanted.file, revision=wanted.revision)
    try:
        before = hub.try_to_load_from_cache(**arguments)
        path = hub.hf_hub_download(**arguments, library_name='mmbirefnet')
    except Exception as error:  # errors of requests, httpx or httpx2, depending on the version of huggingface_hub
        raise _explain(error, wanted) from error
    if path != before:
        _check_blob(Path(path), wanted)
    return Path(path)


def _check_blob(path: Path, wanted: _HubFile) -> None:
    """Compare a new file with its SHA-256, the name of its blob in the cache if the repository provides it."""
    blob = path.resolve()
    if not _SHA256.fullmatch(blob.name):
        return
    found = sha256_of(blob)
    if found != blob.name:
        path.unlink()
        blob.unlink()
        raise ValueError(
            f'{wanted.name}: the SHA-256 of the downloaded {wanted.file} is {found}, not {blob.name}: the '
            'download was damaged and has been deleted. Fix: run the command again'
        )


def _explain(error: Exception, wanted: _HubFile) -> Exception:
    """Convert an error to one with a short message and a fix."""
    from huggingface_hub import constants, errors

    name, endpoint = wanted.name, constants.ENDPOINT
    if isinstance(error, errors.GatedRepoError):
        return PermissionError(
            f'{name}: its terms have to be accepted first. Fix: log in at {wanted.page}, accept them there, and run '
            '"hf auth login" here (or set HF_TOKEN)'
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return FileNotFoundError(f'{name}: {wanted.page} has no revision {wanted.revision}')
    if isinstance(error, errors.RepositoryNotFoundError):
        return FileNotFoundError(
            f'{name}: neither a file here, nor a repository on Hugging Face ({endpoint}); if it is private, run '
            '"hf auth login" (or set HF_TOKEN)'
        )
    if isinstance(error, errors.LocalEntryNotFoundError):
        offline = constants.HF_HUB_OFFLINE
        reason = (
            'HF_HUB_OFFLINE is set, and it is not in the cache' if offline else f'no network, or {endpoint} is down'
        )
        return NotCachedError(f'{name}: cannot be downloaded: {reason}. {wanted.bring_a_file}')
    if isinstance(error, errors.EntryNotFoundError):
        return MissingFileError(f'{name}: {wanted.page} has no file {wanted.file}')
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return OSError(
            f'{name}: no space left for {wanted.file} in {constants.HF_HUB_CACHE}. Fix: make space there, or set '
            'HF_HOME to a folder on another disk'
        )
    if isinstance(error, ValueError):
        return ValueError(f'{name}: no file here, nor the name of a model: {error}')
    if isinstance(error, OSError) and error.filename:  # not an error of the network
        return PermissionError(f'{name}: {error}. Fix: set HF_HOME to a folder that you may write to')
    reason = ' '.join(str(error).split()) or type(error).__name__
    return ConnectionError(
        f'{name}: the download from {endpoint} was interrupted ({reason}). Fix: run the command again. '
        f'{wanted.bring_a_file}'
    )


def _fetch_url(url: str) -> Path:
    try:
        from mmbirefnet.fileio.checkpoint_loading import download
    except ModuleNotFoundError as error:
        raise ImportError(
            f'{url}: downloading from a URL needs {error.name}, which is not installed. Fix: download the file '
            'yourself and give its path'
        ) from error
    known = identify(url).sha256 if url.startswith(_AUTHORS_RELEASES) and url.endswith('.pth') and identify(url) else ()
    return download(f'{url}#sha256={known[0]}' if known else url, progress=sys.stderr.isatty())
