"""Copies of sets that load faster: images at the training size, or all files in one LMDB."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from mmengine import fileio

from mmbirefnet.datasets.dichotomous import DichotomousDataset
from mmbirefnet.datasets.lmdb_backend import SUFFIX
from mmbirefnet.datasets.preparation.find_sets import find_sets
from mmbirefnet.datasets.transforms import LoadImage, LoadMask, Resize

MAP_SIZE = 1 << 40
"""Bytes that a database may grow to; it takes what it holds."""
BATCH = 64
"""Files in a transaction."""


def pack(
    root: str,
    out: str,
    names: Sequence[str] | None = None,
    size: tuple[int, int] | None = None,
    jpeg_quality: int | None = None,
    processes: int | None = None,
) -> int:
    """Copy sets into a new data root.

    Args:
        root: Data root or set; see :func:`~mmbirefnet.datasets.preparation.find_sets.find_sets`, also for ``names``.
        out: A folder or, if it ends in ``.lmdb``, a database, to be used as ``lmdb://<out>``. Paths of the sets in it
            are those below ``root``.
        size: (width, height) that images and masks are resized to, as the training pipeline would. PNG: exactly what
            the pipeline's own resize gives, but for 16-bit masks, which are rounded to their 16 bits. For training
            only: scores are taken at the masks' own size. Without it, files are copied as they are.
        jpeg_quality: Of JPEG images in place of PNG, 1 to 100: smaller, and not the same pixels. Masks stay PNG.
        processes: Number of processes; one for each core by default.

    Returns:
        Number of pairs.

    Raises:
        FileNotFoundError, ValueError, OSError: As of the data set and its transforms; ``check_dataset.py`` lists all.
        FileExistsError: ``out`` exists.
    """
    if os.path.exists(out):
        raise FileExistsError(f'{out}: exists; remove it or choose another place')
    if size is None and (jpeg_quality is not None or not out.endswith(SUFFIX)):
        raise ValueError('without a size nothing is encoded anew: pack into a .lmdb, without a JPEG quality')
    sets = find_sets(root, names)
    missing = [name for name, path in sets.items() if path is None]
    if missing:
        raise FileNotFoundError(f'no set {", ".join(missing)} below {root}')
    pairs = []
    for path in sets.values():
        place = fileio.join_path(root, path) if path else root
        data = DichotomousDataset(place)
        for index in range(len(data)):
            item = data.get_data_info(index)
            pairs.append((item['img_path'], item['seg_map_path']))
    write = _into_lmdb if out.endswith(SUFFIX) else _into_folder
    encode = _read if size is None else partial(_resized, size=size, jpeg_quality=jpeg_quality)
    with ProcessPoolExecutor(processes or os.cpu_count(), initializer=cv2.setNumThreads, initargs=(0,)) as pool:
        # The processes begin before the database is open, which must not be carried over a fork.
        encoded = pool.map(encode, pairs, chunksize=4)
        with write(out) as put:
            for path, content in itertools.chain.from_iterable(encoded):
                put(path.removeprefix(root.rstrip('/') + '/'), content)
    return len(pairs)


def _read(pair: tuple[str, str]) -> list[tuple[str, bytes]]:
    return [(path, fileio.get(path)) for path in pair]


def _resized(pair: tuple[str, str], size: tuple[int, int], jpeg_quality: int | None) -> list[tuple[str, bytes]]:
    image, mask = pair
    results = dict(img_path=image, seg_map_path=mask, seg_fields=[])
    for transform in (LoadImage(), LoadMask(), Resize(scale=size)):
        results = transform(results)
    pixels = results['gt_seg_map']
    if pixels.dtype == np.float32:
        pixels = np.round(pixels * 65535).astype(np.uint16)
    kind, options = ('.png', []) if jpeg_quality is None else ('.jpg', [cv2.IMWRITE_JPEG_QUALITY, jpeg_quality])
    return [
        (os.path.splitext(path)[0] + suffix, cv2.imencode(suffix, array, chosen)[1].tobytes())
        for path, suffix, array, chosen in ((image, kind, results['img'], options), (mask, '.png', pixels, []))
    ]


Put = Callable[[str, bytes], None]


@contextmanager
def _into_folder(out: str) -> Iterator[Put]:
    """Writes files below a folder that has its name when all are there."""
    unfinished = Path(f'{out.rstrip("/")}.unfinished')
    shutil.rmtree(unfinished, ignore_errors=True)

    def put(name: str, content: bytes) -> None:
        path = unfinished / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    yield put
    unfinished.rename(out)


@contextmanager
def _into_lmdb(out: str) -> Iterator[Put]:
    """The same into a database."""
    try:
        import lmdb
    except ImportError as error:
        raise ImportError(f'{out}: writing it needs the package lmdb: pip install lmdb') from error
    unfinished = Path(f'{out}.unfinished')
    unfinished.parent.mkdir(parents=True, exist_ok=True)
    unfinished.unlink(missing_ok=True)
    waiting = []
    with lmdb.open(str(unfinished), subdir=False, map_size=MAP_SIZE, lock=False) as environment:

        def flush() -> None:
            with environment.begin(write=True) as transaction:
                for name, content in waiting:
                    transaction.put(name.encode(), content)
            waiting.clear()

        def put(name: str, content: bytes) -> None:
            if len(name.encode()) > environment.max_key_size():
                raise ValueError(
                    f'{name}: {len(name.encode())} bytes, names in an LMDB have {environment.max_key_size()} at most'
                )
            waiting.append((name, content))
            if len(waiting) >= BATCH:
                flush()

        yield put
        flush()
    unfinished.rename(out)
