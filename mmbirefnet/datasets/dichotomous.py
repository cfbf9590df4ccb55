"""Images and masks in folders, matched by stem: the base of every data set of this project."""

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

    A set is a folder with ``im/`` and ``gt/`` in it. Image and mask share their stem, their suffixes may differ and
    are matched whatever their case. Sub-folders belong to the stem. An item has the keys ``img_path``,
    ``seg_map_path``, ``set_name`` (the set's folder name), ``class_name`` (None where unknown), ``class_label`` (-1
    where unknown) and those of :class:`mmseg.datasets.BaseSegDataset`; items come set by set, sorted by stem.

    Args:
        data_root: Folder of the sets or, where ``sets`` is None, the one set itself.
        sets: Name of a set, or names of sets to join. Each is looked for at ``<data_root>/<set>``, then at
            ``<data_root>/<FAMILY>/<set>`` and below the families of :attr:`OTHER_FAMILIES`. An absolute path is taken
            as it is.
        data_prefix: Folder names of images (``img_path``) and masks (``seg_map_path``) in a set.
        img_suffix: What image names may end with; the rest is the stem.
        seg_map_suffix: The same for masks, for example ``'_mask.png'``.
        with_masks: False for images without masks, only with ``test_mode=True``: items then have no
            ``seg_map_path``, and the mask folders are not looked at.
        skip_missing_sets: Go on without sets that have no folder, if one of ``sets`` has; a warning names them, and
            they are listed in :attr:`missing_sets`. For tests over all sets of a benchmark.
        larger_than: Size (width, height): use only images that are wider and higher. The sizes are read once, from the
            files' headers, when the data set is initialized; the log says how many images of each set are left out.
            Images that cannot be read stay, for the pipeline to report.
        ann_file: Text file of one ``<stem>`` or ``<set>/<stem>`` a line: only these, in this order.
        **kwargs: See :class:`mmseg.datasets.BaseSegDataset`.

    Raises:
        FileNotFoundError: A folder, a mask of an image, or an image of a mask is missing.
        OSError: A link leads to a folder that it is in.
        ValueError: A folder holds no image or two files of one stem, ``ann_file`` lists what does not exist or is not
            unique, no image is ``larger_than`` it, or options do not go together.
    """

    METAINFO = {'classes': ('background', 'foreground'), 'palette': [[0, 0, 0], [255, 255, 255]]}
    FAMILY: str | None = None
    OTHER_FAMILIES: tuple[str, ...] = ()
    SET_SIZES: dict[str, int] = {}
    """Published sets of the family and their number of images."""

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
            raise ValueError(f'{name}: a set is listed twice in sets={self.sets}; RepeatDataset repeats data')
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
        """Name of the object's class that a file stem tells, None where it tells none."""
        return None

    def class_label_of(self, class_name: str | None) -> int:
        """Index of a class, -1 where it is unknown."""
        return -1

    def prepare_data(self, idx: int | tuple[int, tuple[int, int]]) -> dict:
        """Run the pipeline on an item, and give it the image's ``stem``, with the folders below that of the images.

        In training it also gets ``draw_other``, a function that returns a random item of this data set.

        Args:
            idx: The item's index, or this and the size (width, height) of the batch that the item is for, which
                :class:`mmbirefnet.datasets.DynamicSizeBatchSampler` gives; the pipeline finds it as ``batch_scale``.
        """
        idx, *scale = idx if isinstance(idx, tuple) else (idx,)
        info = self.get_data_info(idx)
        info['stem'] = self.stem_of(info['img_path'])
        if not self.test_mode:
            info['draw_other'] = self._draw_item
        return self.pipeline({**info, 'batch_scale': scale[0]} if scale else info)

    def _draw_item(self) -> dict:
        """A random item, for transforms that take a second image."""
        return self.get_data_info(np.random.randint(len(self)))  # noqa: NPY002 (seeded by mmengine in every worker)

    def stem_of(self, path: str) -> str:
        """Path of an image below the folder of images of its set, without suffix."""
        folders = (fileio.join_path(root, self.data_prefix['img_path']) + '/' for root in self._roots)
        folder = next((folder for folder in folders if path.startswith(folder)), path[: path.rfind('/') + 1])
        return path.removeprefix(folder).rpartition('.')[0]

    def _join_prefix(self) -> None:
        # The prefixes are folders of each set, so that only the annotation file is below data_root.
        if self.ann_file and self.data_root and not osp.isabs(self.ann_file):
            self.ann_file = fileio.join_path(self.data_root, self.ann_file)

    def load_data_list(self) -> list[dict]:
        """Items of all sets, or those that ``ann_file`` lists."""
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
        """Items whose images are :attr:`larger_than` it; all where it is None."""
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
                raise ValueError(f'two files of one stem: {found[key]} and {path}')
            found[key] = path
        if ignored:
            print_log(f'{folder}: not used, for their suffix, {_some(ignored, "file")}', 'current', logging.WARNING)
        if not found:
            raise ValueError(f'{folder}: no file that ends with {", ".join(suffixes)}')
        return dict(sorted(found.items()))

    def _select(self, images: dict[tuple[str, str], str]) -> list[tuple[str, str]]:
        """Keys that ``ann_file`` lists."""
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
    """Raise ``OSError`` if a link in a local folder leads to a folder that it is in: listing would not end."""
    above = {folder: {osp.realpath(folder)}}
    for path, children, _ in os.walk(folder, followlinks=True):
        for child in (osp.join(path, name) for name in children):
            if (place := osp.realpath(child)) in above[path]:
                raise OSError(f'{child}: links to a folder that it is in')
            above[child] = above[path] | {place}


def _set_name(root: str) -> str:
    return osp.basename(root.rstrip('/') if '://' in root else osp.abspath(root))


def _as_suffixes(suffix: str | Sequence[str]) -> tuple[str, ...]:
    """Lower case, the longest first."""
    suffixes = {s.lower() for s in ([suffix] if isinstance(suffix, str) else suffix)}
    return tuple(sorted(suffixes, key=lambda s: (-len(s), s)))


def _some(names: Sequence[str], what: str, limit: int = 5) -> str:
    """``'2 images: a, b'``, cut after ``limit`` names."""
    more = ', …' if len(names) > limit else ''
    return f'{len(names)} {what}{"s" * (len(names) > 1)}: {", ".join(map(printable, names[:limit]))}{more}'


def refuse_padding_as_object(pipeline: Compose) -> None:
    """Make sure that no transform fills what it adds to a soft mask with foreground.

    Pixels of 255 are ignored in mmseg's label maps, which is what its transforms and mmcv's ``Pad`` fill by default; in
    a soft mask 255 is the object.

    Raises:
        ValueError: If one does; names the option.
    """
    with_mask = False
    for step in _steps(pipeline):
        with_mask = with_mask or isinstance(step, LoadMask)
        for option, value, fix in _fillings(step):
            if with_mask and value:
                name = type(step).__name__
                raise ValueError(f'{name}: {option}={value} would fill soft masks with foreground. Fix: {name}({fix})')


def _steps(step: object) -> Iterator[BaseTransform]:
    """Transforms in the order in which they are built, with those inside them."""
    if isinstance(step, BaseTransform):
        yield step
    inner = step if isinstance(step, (list, tuple)) else vars(step).values()
    for each in inner:
        if isinstance(each, (BaseTransform, Compose, list, tuple)) or type(each).__name__ == 'Compose':
            yield from _steps(each)


def _fillings(step: BaseTransform) -> Iterator[tuple[str, object, str]]:
    """Option, value for masks, and what to write instead."""
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
