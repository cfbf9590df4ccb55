"""Safe replacements of mmengine's checkpoint loaders: no code runs, downloads are checked, errors name the file.

After :func:`register_loaders`, runners, ``init_cfg`` and ``load_checkpoint`` use them for paths and URLs.
"""

import hashlib
import logging
import os
import re
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urldefrag, urlparse

import torch
from mmengine.dist import barrier, get_dist_info
from mmengine.logging import print_log
from mmengine.runner import checkpoint as mmengine_checkpoint
from mmengine.runner.checkpoint import CheckpointLoader

from mmbirefnet.fileio.atomic import sha256_of
from mmbirefnet.fileio.checkpoints import read_checkpoint, state_dict_of
from mmbirefnet.fileio.downloads import download_file

# torchvision and OpenMMLab end names of published files with the first digits of the SHA-256.
_NAMED_HASH = re.compile(r'-([0-9a-f]{8,64})\.\w+$')
_SHA256 = 'sha256='
_COMPILED = re.compile(r'(?:module\.)?_orig_mod\.')  # torch.compile adds it to every key


# mmengine logs `loader.__name__[10:]`, so these names start with `load_from_`.
def load_from_local(filename: str, map_location: str | Callable | None = None) -> dict:
    """Load a checkpoint from a local file.

    Raises:
        FileNotFoundError, ImportError, ValueError: As in :func:`mmbirefnet.fileio.checkpoints.read_checkpoint`.
    """
    checkpoint = read_checkpoint(os.path.expanduser(filename), map_location)
    if not isinstance(checkpoint, dict):
        raise ValueError(f'{filename}: not a checkpoint, but a {type(checkpoint).__name__}')
    if Path(filename).suffix == '.safetensors':
        return dict(state_dict=checkpoint)
    if not checkpoint.keys().isdisjoint(('state_dict', 'meta')):
        state_dict_of(checkpoint, filename)
    state = checkpoint.get('state_dict')
    if isinstance(state, dict) and state and all(_COMPILED.match(str(key)) for key in state):
        plain = OrderedDict((_COMPILED.sub('', key, 1), value) for key, value in state.items())
        plain._metadata = getattr(state, '_metadata', OrderedDict())  # layers read the version of their parameters
        checkpoint['state_dict'] = plain
    meta = checkpoint.get('meta')
    if isinstance(meta, dict):
        meta.pop('config', None)  # Python text, which mmengine would run when it resumes; it writes `cfg` itself
    return checkpoint


def load_from_http(
    filename: str, map_location: str | Callable | None = None, model_dir: str | None = None, progress: bool = False
) -> dict:
    """Load a checkpoint from a URL; see :func:`download` and :func:`load_from_local`.

    Args:
        filename: URL.
        map_location: See ``torch.load``.
        model_dir: Folder of downloads; by default as in :func:`download`.
        progress: Whether to show a progress bar.
    """
    return load_from_local(str(download(filename, model_dir or '', progress)), map_location)


def download(url: str, folder: str = '', progress: bool = False) -> Path:
    """Download a file once per machine, and check it each time.

    Args:
        url: URL. The SHA-256 of the file, or its first 8 or more digits, may be the end of the name (``-795e9634.pth``,
            as in torchvision and OpenMMLab), or follow as ``#sha256=…``. Without either, a warning is logged.
        folder: Folder of downloads. By default it is below ``checkpoints`` in the folder of ``torch.hub``: files with a
            hash in their name are in ``checkpoints`` itself, as ``torch.hub`` does it, other files in a folder for each
            location, because files of different locations often have the same name.
        progress: Whether to show a progress bar.

    Returns:
        Path of the file.

    Raises:
        ValueError: If the hash of the file is wrong, or the URL names no file.
        OSError: If the file cannot be downloaded.
    """
    url, fragment = urldefrag(url)
    name = Path(urlparse(url).path).name
    if name in ('', '..'):
        raise ValueError(f'{url}: this URL does not end with the name of a file')
    named = _NAMED_HASH.search(name)
    path = Path(torch.hub.get_dir(), 'checkpoints', folder or ('' if named else _location(url)), name)
    digest = fragment.removeprefix(_SHA256).lower() if fragment.startswith(_SHA256) else named[1] if named else None
    if int(os.environ.get('LOCAL_RANK', get_dist_info()[0])) == 0 and not path.is_file():
        print_log(f'downloading {url} to {path}', 'current')
        download_file(url, path, progress)
    barrier()
    _check_digest(path, digest, url)
    return path


def _location(url: str) -> str:
    """Name of the folder for files of a location; files of different queries are different files."""
    location, _, query = url.partition('//')[2].partition('?')
    folder = re.sub(r'[^\w./-]|\.\.', '_', location.rpartition('/')[0])
    return f'{folder}/{hashlib.sha256(query.encode()).hexdigest()[:16]}' if query else folder


def _check_digest(path: Path, wanted: str | None, url: str) -> None:
    found = sha256_of(path)
    if wanted is None:
        print_log(
            f'{path}: the download cannot be checked, since its hash is unknown. Once you know that it is good, '
            f'use the URL {url}#{_SHA256}{found}',
            'current',
            logging.WARNING,
        )
    elif not found.startswith(wanted):
        raise ValueError(
            f'{path}: its SHA-256 is {found}, not {wanted}…: damaged, or not what {url} is known to be; remove it'
        )


def register_loaders() -> None:
    """Replace the loaders of mmengine by these."""
    CheckpointLoader.register_scheme('', load_from_local, force=True)
    CheckpointLoader.register_scheme(('http://', 'https://'), load_from_http, force=True)
    mmengine_checkpoint.load_from_http = load_from_http  # also used for torchvision://, open-mmlab:// and mmcls://
