"""Copies of data sets at the training size, which load faster than large originals."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from mmengine import fileio

from mmbirefnet.datasets.dichotomous import DichotomousDataset
from mmbirefnet.datasets.preparation.find_sets import find_sets
from mmbirefnet.datasets.transforms import LoadImage, LoadMask, Resize


def pack(
    root: str,
    out: str,
    size: tuple[int, int],
    names: Sequence[str] | None = None,
    jpeg_quality: int | None = None,
    processes: int | None = None,
) -> int:
    """Copy data sets into a new data root, resized as the training pipeline resizes them.

    Use it for training only: scores are computed at the original size of the masks.

    Args:
        root: Data root or set; see :func:`~mmbirefnet.datasets.preparation.find_sets.find_sets`, also for ``names``.
        out: Folder to create. Paths of the sets in it are those below ``root``.
        size: (width, height) in pixels. Files are PNG and hold exactly the pixels of the pipeline's own resize, except
            that 16-bit masks are rounded to 16 bits.
        names: Sets or families to copy; all by default.
        jpeg_quality: Write images as JPEG of this quality, 1 to 100: smaller, with other pixels. Masks stay PNG.
        processes: Number of processes; one per core by default.

    Returns:
        Number of pairs.

    Raises:
        FileExistsError: If ``out`` exists.
        FileNotFoundError, ValueError, OSError: If a set or file is missing or damaged; ``check_dataset.py`` lists all.
    """
    if os.path.exists(out):
        raise FileExistsError(f'{out}: exists; remove it or choose another folder')
    sets = find_sets(root, names)
    missing = [name for name, path in sets.items() if path is None]
    if missing:
        raise FileNotFoundError(f'no set {", ".join(missing)} below {root}')
    pairs = []
    for path in sets.values():
        data = DichotomousDataset(fileio.join_path(root, path) if path else root)
        items = (data.get_data_info(index) for index in range(len(data)))
        pairs += [(item['img_path'], item['seg_map_path']) for item in items]
    unfinished = Path(f'{out.rstrip("/")}.unfinished')
    shutil.rmtree(unfinished, ignore_errors=True)
    copy = partial(_copy, root=root, out=unfinished, size=size, jpeg_quality=jpeg_quality)
    with ProcessPoolExecutor(processes or os.cpu_count(), initializer=cv2.setNumThreads, initargs=(0,)) as pool:
        for _ in pool.map(copy, pairs, chunksize=4):
            pass
    unfinished.rename(out)  # the folder gets its name once all files are there
    return len(pairs)


def _copy(pair: tuple[str, str], root: str, out: Path, size: tuple[int, int], jpeg_quality: int | None) -> None:
    """Write one image and its mask, resized, at the same relative paths below ``out``."""
    image, mask = pair
    results = dict(img_path=image, seg_map_path=mask, seg_fields=[])
    for transform in (LoadImage(), LoadMask(), Resize(scale=size)):
        results = transform(results)
    pixels = results['gt_seg_map']
    if pixels.dtype == np.float32:
        pixels = np.round(pixels * 65535).astype(np.uint16)
    kind, options = ('.png', []) if jpeg_quality is None else ('.jpg', [cv2.IMWRITE_JPEG_QUALITY, jpeg_quality])
    for path, suffix, array, chosen in ((image, kind, results['img'], options), (mask, '.png', pixels, [])):
        target = (out / path.removeprefix(root.rstrip('/') + '/')).with_suffix(suffix)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(cv2.imencode(suffix, array, chosen)[1].tobytes())
