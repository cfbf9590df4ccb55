"""A folder of images and masks, some of which are held out for validation."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

from mmengine import fileio

from mmbirefnet.registry import DATASETS

from .dichotomous import DichotomousDataset

SPLITS = ('train', 'val')


def held_out_stems(stems: Sequence[str], share: float) -> set[str]:
    """Return the stems with the smallest CRC-32: ``share`` of all, at least one, and not all."""
    count = min(max(round(share * len(stems)), 1), len(stems) - 1)
    return set(sorted(stems, key=lambda stem: (zlib.crc32(stem.encode()), stem))[:count])


@DATASETS.register_module()
class FolderDataset(DichotomousDataset):
    """A folder with ``im/`` and ``gt/``, or with ``train/`` and ``val/`` that contain these.

    Without ``train/`` and ``val/``, some images are held out: those whose stems have the smallest CRC-32. They are the
    same in every run, and mostly the same after images are added.

    Args:
        data_root: The folder.
        split: ``'train'`` or ``'val'``.
        held_out: Share in (0, 1) of the images that are ``'val'`` if there is one folder for all; at least one image.
        **kwargs: See :class:`DichotomousDataset`.

    Raises:
        FileNotFoundError: If the folder has neither form.
        ValueError: If it has both, if it contains only one image, or if an option is invalid.
    """

    def __init__(self, data_root: str, split: str, held_out: float = 0.1, **kwargs) -> None:
        if split not in SPLITS:
            raise ValueError(f'FolderDataset: split={split!r}, must be one of {", ".join(SPLITS)}')
        if not 0 < held_out < 1:
            raise ValueError(f'FolderDataset: held_out={held_out}, must be in (0, 1)')
        self.split = split
        self.held_out = held_out
        super().__init__(data_root=data_root, **kwargs)

    def load_data_list(self) -> list[dict]:
        """Return the items of the split."""
        found = [name for name in ('', *SPLITS) if self._has_images(name)]
        if found == [*SPLITS]:
            self.sets = [self.split]
            return super().load_data_list()
        if found != ['']:
            images = self.data_prefix['img_path']
            places = ', '.join(fileio.join_path(name, images) if name else images for name in found)
            error = ValueError if len(found) > 1 else FileNotFoundError
            raise error(
                f'{self.data_root}: expected {images}/ with all images, or train/{images}/ and val/{images}/; '
                f'found {places or "none of them"}'
            )
        items = super().load_data_list()
        if len(items) < 2:
            raise ValueError(
                f'{self.data_root}: only one image, which cannot be split into train and val. Fix: add images'
            )
        stems = [self.stem_of(item['img_path']) for item in items]
        held_out = held_out_stems(stems, self.held_out)
        return [item for stem, item in zip(stems, items) if (stem in held_out) == (self.split == 'val')]

    def _has_images(self, name: str) -> bool:
        folder = fileio.join_path(self.data_root, name, self.data_prefix['img_path'])
        return fileio.isdir(folder, backend_args=self.backend_args)
