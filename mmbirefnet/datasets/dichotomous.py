"""Images and masks in folders, matched by stem: the base class of all data sets."""

from __future__ import annotations

import logging
import os
import os.path as osp
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from mmcv.transforms import BaseTransform
from mmengine import fileio, list_from_file
from mmengine.dataset import Compose
from mmengine.logging import print_log
from mmseg.datasets import BaseSegDataset

from mmbirefnet.datasets.transforms import LoadMask
from mmbirefnet.imaging.formats import IMAGE_SUFFIXES
from mmbirefnet.registry import DATASETS
from mmbirefnet.utils.console import printable

from .transforms.decode import read_image_size


@DATASETS.register_module()
class DichotomousDataset(BaseSegDataset):
    """One object per image, with a mask that may be soft.

    A set is a folder with ``im/`` and ``gt/``. An image and its mask have the same stem; the suffixes may differ, and
    their case does not matter. Subfolders are part of the stem. An item has the keys ``img_path``, ``seg_map_path``,
    ``set_name`` (the name of the set's folder), ``class_name`` (``None`` if unknown), ``class_label`` (-1 if unknown)
    and those of :class:`mmseg.datasets.BaseSegDataset`. Items are ordered by set, then by stem.

    Args:
        data_root: Folder of the sets or, if ``sets`` is ``None``, the set itself.
        sets: Name of a set, or names of sets to join. Each is searched for at ``<data_root>/<set>``, then at
            ``<data_root>/<FAMILY>/<set>``, then in the families of :attr:`OTHER_FAMILIES`. A set may also be an
            absolute path.
        data_prefix: Folder names of images (``img_path``) and masks (``seg_map_path``) in a set.
        img_suffix: Endings of image names; the rest of the name is the stem.
        seg_map_suffix: The same for masks, for example ``'_mask.png'``.
        with_masks: ``False`` for images without masks, only with ``test_mode=True``. Items then have no
            ``seg_map_path``, and folders of masks are ignored.
        skip_missing_sets: Skip sets without a folder, if at least one set has a folder. They are logged, and listed in
            :attr:`missing_sets`. For tests over all sets of a benchmark.
        larger_than: Size (width, height) in pixels: use only images that are wider and higher. The sizes are read once,
            from the headers of the files, when the data set is initialized. The number of excluded images of each set
            is logged. Unreadable images are kept, so that the pipeline reports them.
        ann_file: Text file with one ``<stem>`` or ``<set>/<stem>`` per line: use only these, in this order.
        **kwargs: See :class:`mmseg.datasets.BaseSegDataset`.

    Raises:
        FileNotFoundError: If a folder, the mask of an image, or the image of a mask is missing.
        OSError: If a link leads to a folder that contains it.
        ValueError: If a folder contains no image or two files with the same stem, an entry of ``ann_file`` does not
            exist or is ambiguous, no image is larger than ``larger_than``, or options contradict each other.
    """

    METAINFO = {'classes': ('background', 'foreground'), 'palette': [[0, 0, 0], [255, 255, 255]]}
    FAMILY: str | None = None
    OTHER_FAMILIES: tuple[str, ...] = ()
    SET_SIZES: dict[str, int] = {}
    """Published sets of the family, with their numbers of images."""

    def __init__(
        self,
        data_root: str | None = None,
        sets: str | Sequence[str] | None = None,
        data_prefix: dict | None = None,
        img_suffix: str | Sequence[str] = IMAGE_SUFFIXES,
        seg_map_suffix: str | Sequence[str] = IMAGE_SUFFIXES,
        with_masks: bool = True,
        skip_missing_sets: bool = False,
        larger_than: tuple[int, int] | None = None,
        test_mode: bool = False,
        **kwargs,
    ) -> None:
        self.sets = [sets] if isinstance(sets, str) else None if sets is None else list(sets)
        self.with_masks = with_masks
        self.skip_missing_sets = skip_missing_sets
        self.missing_sets: list[str] = []
        self.larger_than = larger_than
        self._roots: list[str] = []
        name = type(self).__name__
        if larger_than is not None and (len(larger_than) != 2 or min(larger_than) < 1):
            raise ValueError(f'{name}: larger_than={larger_than}, must be (width, height) in pixels')
        if self.sets == [] or (data_root is None and self.sets is None):
            raise ValueError(f'{name}: give data_root, or the names of sets, or both')
        if self.sets is not None and len(set(self.sets)) != len(self.sets):
            raise ValueError(f'{name}: a set is listed twice in sets={self.sets}. Fix: repeat data with RepeatDataset')
        if not with_masks and not test_mode:
            raise ValueError(f'{name}: with_masks=False is for test_mode=True; training needs masks')
        if kwargs.get('reduce_zero_label'):
            raise ValueError(f'{name}: reduce_zero_label would drop the background; masks here are not class ids')
        super().__init__(
            data_root=data_root,
            data_prefix={'img_path': 'im', 'seg_map_path': 'gt', **(data_prefix or {})},
            img_suffix=_as_suffixes(img_suffix),
            seg_map_suffix=_as_suffixes(seg_map_suffix),
            test_mode=test_mode,
            **kwargs,
        )
        refuse_padding_as_object(self.pipeline)
        if self.label_map is not None:
            raise ValueError(f'{name}: metainfo cannot choose among the classes; masks here are not class ids')

    def class_name_of(self, stem: str) -> str | None:
        """Name of the class of the object, from the file stem; ``None`` if unknown."""
        return None

    def class_label_of(self, class_name: str | None) -> int:
        """Index of a class; -1 if it is unknown."""
        return -1

    def prepare_data(self, idx: int | tuple[int, tuple[int, int]]) -> dict:
        """Run the pipeline on an item, with the additional key ``stem`` (including subfolders).

        In training, the item also has ``draw_other``, a function that returns a random item of this data set.

        Args:
            idx: Index of the item, or a pair of it and the size (width, height) of the batch, from
                :class:`mmbirefnet.datasets.DynamicSizeBatchSampler`. The size becomes the key ``batch_scale``.
        """
        idx, *scale = idx if isinstance(idx, tuple) else (idx,)
        info = self.get_data_info(idx)
        info['stem'] = self.stem_of(info['img_path'])
        if not self.test_mode:
            info['draw_other'] = self._draw_item
        return self.pipeline({**info, 'batch_scale': scale[0]} if scale else info)

    def _draw_item(self) -> dict:
        """Return a random item, for transforms that need a second image."""
        return self.get_data_info(np.random.randint(len(self)))  # noqa: NPY002 (seeded by mmengine in every worker)

    def stem_of(self, path: str) -> str:
        """Path of an image relative to the folder of images of its set, without suffix."""
        folders = (fileio.join_path(root, self.data_prefix['img_path']) + '/' for root in self._roots)
        folder = next((folder for folder in folders if path.startswith(folder)), path[: path.rfind('/') + 1])
        return path.removeprefix(folder).rpartition('.')[0]

    def _join_prefix(self) -> None:
        # The prefixes are folders in each set, so only the annotation file is relative to data_root.
        if self.ann_file and self.data_root and not osp.isabs(self.ann_file):
            self.ann_file = fileio.join_path(self.data_root, self.ann_file)

    def load_data_list(self) -> list[dict]:
        """Return the items of all sets, or those listed in ``ann_file``."""
        images, masks = {}, {}  # (set folder, stem) -> path
        roots = self._roots = self._find_sets()
        self._metainfo['sets'] = tuple(_set_name(root) for root in roots)
        for root in roots:
            images.update(self._list_folder(root, 'img_path', self.img_suffix))
            if self.with_masks:
                masks.update(self._list_folder(root, 'seg_map_path', self.seg_map_suffix))
        if self.ann_file:
            keys = self._select(images)
        else:
            keys = list(images)
            without_image = [path for key, path in masks.items() if key not in images]
            if without_image:
                raise FileNotFoundError(f'no image for {_some(without_image, "mask")}')
        if self.with_masks:
            without_mask = [images[key] for key in keys if key not in masks]
            if without_mask:
                raise FileNotFoundError(f'no mask for {_some(without_mask, "image")}')
        return [self._item(key, images[key], masks.get(key)) for key in keys]

    def filter_data(self) -> list[dict]:
        """Return the items whose images are larger than :attr:`larger_than`; all if it is ``None``."""
        if self.larger_than is None:
            return self.data_list
        with ThreadPoolExecutor() as pool:
            large = list(pool.map(self._is_large, self.data_list))
        kept = [item for item, is_large in zip(self.data_list, large, strict=True) if is_large]
        width, height = self.larger_than
        of_all, of_kept = (Counter(item['set_name'] for item in items) for items in (self.data_list, kept))
        by_set = ', '.join(f'{count - of_kept[name]} of {count} in {name}' for name, count in of_all.items())
        message = f'larger_than={width}x{height} leaves out {len(large) - len(kept)} of {len(large)} images: {by_set}'
        if not kept:
            raise ValueError(f'{type(self).__name__}: {message}')
        print_log(message, 'current')
        return kept

    def _is_large(self, item: dict) -> bool:
        try:
            size = read_image_size(item['img_path'], self.backend_args)
        except OSError:
            return True
        return all(side > bound for side, bound in zip(size, self.larger_than, strict=True))

    def _item(self, key: tuple[str, str], image: str, mask: str | None) -> dict:
        root, stem = key
        class_name = self.class_name_of(osp.basename(stem))
        item = {
            'img_path': image,
            'set_name': _set_name(root),
            'class_name': class_name,
            'class_label': self.class_label_of(class_name),
            'label_map': self.label_map,
            'reduce_zero_label': self.reduce_zero_label,
            'seg_fields': [],
        }
        if mask is not None:
            item['seg_map_path'] = mask
        return item

    def _find_sets(self) -> list[str]:
        """Folders of the sets."""
        root, folder = self.data_root or '', self.data_prefix['img_path']
        found, missing = [], {}
        for name in self.sets or ['']:
            places = [fileio.join_path(root, name) if name else root]
            families = [family for family in (self.FAMILY, *self.OTHER_FAMILIES) if name and family]
            places += [fileio.join_path(root, family, name) for family in families]
            for place in places:
                if fileio.isdir(fileio.join_path(place, folder), backend_args=self.backend_args):
                    found.append(place)
                    break
            else:
                missing[name] = ' or '.join(fileio.join_path(place, folder) for place in places)
        self.missing_sets = list(missing)
        if missing:
            problem = f'no folder of images at {"; nor at ".join(missing.values())}'
            if not (self.skip_missing_sets and found):
                known = f'; sets of {self.FAMILY}: {", ".join(self.SET_SIZES)}' if self.SET_SIZES and self.sets else ''
                raise FileNotFoundError(problem + known)
            print_log(f'left out {_some(self.missing_sets, "set")}: {problem}', 'current', logging.WARNING)
        return found

    def _list_folder(self, root: str, kind: str, suffixes: Sequence[str]) -> dict[tuple[str, str], str]:
        """(set folder, stem) to path of the images or masks of a set, sorted by stem."""
        folder = fileio.join_path(root, self.data_prefix[kind])
        if not fileio.isdir(folder, backend_args=self.backend_args):
            raise FileNotFoundError(f'no folder of masks at {folder}; with_masks=False reads images alone in test mode')
        refuse_circles(folder)
        found, ignored = {}, []
        for name in fileio.list_dir_or_file(folder, list_dir=False, recursive=True, backend_args=self.backend_args):
            suffix = next((suffix for suffix in suffixes if name.lower().endswith(suffix)), None)
            if suffix is None:
                ignored.append(name)
                continue
            key, path = (root, name[: -len(suffix)]), fileio.join_path(folder, name)
            if key in found:
                raise ValueError(f'two files with one stem: {found[key]} and {path}')
            found[key] = path
        if ignored:
            print_log(
                f'{folder}: not used because of their suffix: {_some(ignored, "file")}', 'current', logging.WARNING
            )
        if not found:
            raise ValueError(f'{folder}: no file that ends with {", ".join(suffixes)}')
        return dict(sorted(found.items()))

    def _select(self, images: dict[tuple[str, str], str]) -> list[tuple[str, str]]:
        """Keys of the entries of ``ann_file``."""
        by_line: dict[str, list] = {}
        for root, stem in images:
            for line in (stem, f'{_set_name(root)}/{stem}'):
                by_line.setdefault(line, []).append((root, stem))
        lines = [line.strip() for line in list_from_file(self.ann_file, backend_args=self.backend_args)]
        lines = [line for line in lines if line]
        wrong = [line for line in lines if len(by_line.get(line, [])) != 1]
        if wrong or not lines:
            problem = f'no image, or images of several sets, for {_some(wrong, "line")}' if wrong else 'no line'
            raise ValueError(f'{self.ann_file}: {problem}; expected <stem> or <set>/<stem>, without suffix')
        return [by_line[line][0] for line in lines]


def refuse_circles(folder: str) -> None:
    """Raise ``OSError`` if a link in a local folder leads to a folder that contains it; listing would never end."""
    above = {folder: {osp.realpath(folder)}}
    for path, children, _ in os.walk(folder, followlinks=True):
        for child in (osp.join(path, name) for name in children):
            if (place := osp.realpath(child)) in above[path]:
                raise OSError(f'{child}: links to a folder that contains it')
            above[child] = above[path] | {place}


def _set_name(root: str) -> str:
    return osp.basename(root.rstrip('/') if '://' in root else osp.abspath(root))


def _as_suffixes(suffix: str | Sequence[str]) -> tuple[str, ...]:
    """Lowercase suffixes, the longest first."""
    suffixes = {s.lower() for s in ([suffix] if isinstance(suffix, str) else suffix)}
    return tuple(sorted(suffixes, key=lambda s: (-len(s), s)))


def _some(names: Sequence[str], what: str, limit: int = 5) -> str:
    """Format names as ``'2 images: a, b'``, at most ``limit`` of them."""
    more = ', …' if len(names) > limit else ''
    return f'{len(names)} {what}{"s" * (len(names) > 1)}: {", ".join(map(printable, names[:limit]))}{more}'


def refuse_padding_as_object(pipeline: Compose) -> None:
    """Check that no transform pads soft masks with foreground.

    mmseg's transforms and mmcv's ``Pad`` fill with 255 by default. That is ignored in mmseg's label maps, but is
    foreground in a soft mask.

    Raises:
        ValueError: If a transform does; the message names the option.
    """
    with_mask = False
    for step in _steps(pipeline):
        with_mask = with_mask or isinstance(step, LoadMask)
        for option, value, fix in _fillings(step):
            if with_mask and value:
                name = type(step).__name__
                raise ValueError(f'{name}: {option}={value} would fill soft masks with foreground. Fix: {name}({fix})')


def _steps(step: object) -> Iterator[BaseTransform]:
    """All transforms, including nested ones, in the order of the pipeline."""
    if isinstance(step, BaseTransform):
        yield step
    inner = step if isinstance(step, (list, tuple)) else vars(step).values()
    for each in inner:
        if isinstance(each, (BaseTransform, Compose, list, tuple)) or type(each).__name__ == 'Compose':
            yield from _steps(each)


def _fillings(step: BaseTransform) -> Iterator[tuple[str, object, str]]:
    """Fill options of a transform: name, value for masks, and the fix."""
    options = vars(step)
    if isinstance(options.get('pad_val'), dict):  # mmcv's Pad
        yield "pad_val['seg']", options['pad_val'].get('seg', 255), 'pad_val=dict(img=0, seg=0)'
    if options.get('auto_pad') and isinstance(options.get('pad_cfg'), dict):  # mmcv's CenterCrop
        value = options['pad_cfg'].get('pad_val', 0)
        value = value.get('seg', 255) if isinstance(value, dict) else 255
        yield 'pad_cfg', value, "pad_cfg=dict(type='Pad', pad_val=dict(img=0, seg=0))"
    for name in ('seg_pad_val', 'seg_fill_in'):  # mmseg's RandomRotate, RandomMosaic, RandomCutOut
        if name in options:
            yield name, options[name], f'{name}=0'
