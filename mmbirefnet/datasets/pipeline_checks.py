"""Checks of pipelines when they are built."""

from __future__ import annotations

from collections.abc import Iterator

from mmcv.transforms import BaseTransform
from mmengine.dataset import Compose

from mmbirefnet.datasets.transforms import LoadMask


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
