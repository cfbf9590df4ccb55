"""What mmengine loads checkpoints by, made safe: no code is run, downloads are checked, errors name the file.

:func:`register_loaders` puts it in place of mmengine's own: whatever a runner, an ``init_cfg`` or ``load_checkpoint``
loads by path or URL then comes through here.
"""

import logging
import os
import re
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

# The end of a file's name that torchvision and OpenMMLab give to what they publish: the start of its SHA-256.
_NAMED_HASH = re.compile(r'-([0-9a-f]{8,64})\.\w+$')
_SHA256 = 'sha256='
_COMPILED = '_orig_mod.'  # torch.compile puts it before every key


# The message of the load has the names from the tenth character on.
def load_from_local(filename: str, map_location: str | Callable | None = None) -> dict:
    """A checkpoint of a local file.

    Raises:
        FileNotFoundError, ImportError, ValueError: See :func:`mmbirefnet.fileio.checkpoints.read_checkpoint`.
    """
    checkpoint = read_checkpoint(os.path.expanduser(filename), map_location)
    if not isinstance(checkpoint, dict):
        raise ValueError(f'{filename}: no checkpoint, but a {type(checkpoint).__name__}')
    if Path(filename).suffix == '.safetensors':
        return dict(state_dict=checkpoint)
    if not checkpoint.keys().isdisjoint(('state_dict', 'meta')):
        state_dict_of(checkpoint, filename)
    state = checkpoint.get('state_dict')
    if isinstance(state, dict) and state and all(str(key).startswith(_COMPILED) for key in state):
        checkpoint['state_dict'] = {key.removeprefix(_COMPILED): value for key, value in state.items()}
    meta = checkpoint.get('meta')
    if isinstance(meta, dict):
        meta.pop('config', None)  # Python text, which mmengine would run when it resumes; it writes `cfg` itself
    return checkpoint


def load_from_http(
    filename: str, map_location: str | Callable | None = None, model_dir: str | None = None, progress: bool = False
) -> dict:
    """A checkpoint of a URL; see :func:`download` and :func:`load_from_local`.

    Args:
        filename: URL.
        map_location: See ``torch.load``.
        model_dir: Folder of downloads, by default ``checkpoints`` in that of ``torch.hub``.
        progress: Whether to show a bar.
    """
    return load_from_local(str(download(filename, model_dir or '', progress)), map_location)


def download(url: str, folder: str = '', progress: bool = False) -> Path:
    """Download a file once (by the first process of each machine) and check it each time.

    Args:
        url: URL. Its file's SHA-256, or the first 8 or more digits, is what the name ends with (``-795e9634.pth``,
            as torchvision and OpenMMLab name files) or ``#sha256=…`` behind it; without either there is a warning.
        folder: Folder of downloads, absolute or below ``checkpoints`` in the folder of ``torch.hub``.
        progress: Whether to show a bar.

    Returns:
        The file.

    Raises:
        ValueError: If the file is not the one that the hash is of.
        OSError: If it cannot be downloaded.
    """
    url, fragment = urldefrag(url)
    path = Path(torch.hub.get_dir(), 'checkpoints', folder, Path(urlparse(url).path).name)
    named = _NAMED_HASH.search(path.name)
    digest = fragment.removeprefix(_SHA256).lower() if fragment.startswith(_SHA256) else named[1] if named else None
    if int(os.environ.get('LOCAL_RANK', get_dist_info()[0])) == 0 and not path.is_file():
        print_log(f'downloading {url} to {path}', 'current')
        download_file(url, path, progress)
    barrier()
    _check_digest(path, digest, url)
    return path


def _check_digest(path: Path, wanted: str | None, url: str) -> None:
    found = sha256_of(path)
    if wanted is None:
        print_log(
            f'{path}: there is nothing to check the download against; once it is known to be good, '
            f'name it {url}#{_SHA256}{found}',
            'current',
            logging.WARNING,
        )
    elif not found.startswith(wanted):
        raise ValueError(
            f'{path}: its SHA-256 is {found}, not {wanted}…: damaged, or not what {url} is known to be; remove it'
        )


def register_loaders() -> None:
    """Put these loaders in place of mmengine's."""
    CheckpointLoader.register_scheme('', load_from_local, force=True)
    CheckpointLoader.register_scheme(('http://', 'https://'), load_from_http, force=True)
    mmengine_checkpoint.load_from_http = load_from_http  # which torchvision://, open-mmlab:// and mmcls:// go on to
