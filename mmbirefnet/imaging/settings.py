"""Options of a prediction, with checks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Integral, Real

import numpy as np

from mmbirefnet.imaging.refine import METHODS

MOST_PIXELS = 500  # largest grow and feather, since their cost grows with the distance
STRIDE = 32  # height and width of the model input are multiples of this
LONGEST_SIDE = 2**15  # longest side of the model input, in pixels
LARGEST_BATCH = 2**16
FARTHEST = 1e9  # largest coordinate of a box, in pixels; larger ones would overflow when margins are added


@dataclass(frozen=True)
class Settings:
    """Options of a prediction.

    Attributes:
        input_size: Size that the image is resized to for the model: ``None`` for the size that the model was trained
            at, the side of a square, (height, width), or ``'image'`` for the size of the image, rounded to multiples of
            32. In pixels. By default, models of dynamic size use the size of the image, within the range of sides that
            they were trained at.
        max_size: Limit for the longer side at the size of the image, in pixels; the aspect ratio is kept.
        batch_size: Images per batch; images of different input sizes are in different batches.
        flip: Whether to average with the prediction of the mirrored image.
        scales: Factors of the input size. The predictions are averaged.
        box: (left, top, right, bottom) in pixels of the upright image: the map is 0 outside.
        margin: Context around the box that the model sees, as a fraction of the sides of the box.
        threshold: Makes the map binary: 1 where it exceeds this value.
        min_area: Removes components with a smaller area: in pixels, or if below 1 as a fraction of the image.
        levels: (low, high): the map becomes 0 up to ``low``, 1 from ``high`` on, and linear between.
        largest: Whether to keep only the largest component.
        fill_holes: Whether to fill holes in objects.
        grow: Pixels to grow the object by; a negative number shrinks it.
        feather: Standard deviation, in pixels, of a Gaussian that softens the edge; 0 for none.
        invert: Whether to swap object and background.
        refine: Refines uncertain edges with the colors of the image: ``'guided'`` or ``'closed-form'``, see
            :func:`~mmbirefnet.imaging.refine.refine_map`; ``None`` for no refinement.
        tile: Side of tiles in pixels, a multiple of 32. Images with a longer side are predicted at their original size
            (or at ``input_size``) in overlapping tiles; other images are predicted whole.
        tile_overlap: Pixels that neighboring tiles share; they are blended over its middle half. By default a quarter
            of ``tile``.
        two_pass: For small objects in large images: whether to locate the object first, and to predict it again in a
            crop with ``margin`` around it.

    The operations on the map are applied in this order: refine, levels, min_area, largest, fill_holes, threshold, grow,
    feather, invert.

    Raises:
        ValueError: If an option is invalid.
    """

    input_size: int | Sequence[int] | str | None = None
    max_size: int = 2560
    batch_size: int = 1
    flip: bool = False
    scales: Sequence[float] = (1.0,)
    box: Sequence[float] | None = None
    margin: float = 0.1
    threshold: float | None = None
    min_area: float = 0
    levels: Sequence[float] | None = None
    largest: bool = False
    fill_holes: bool = False
    grow: int = 0
    feather: float = 0
    invert: bool = False
    refine: str | None = None
    tile: int | None = None
    tile_overlap: int | None = None
    two_pass: bool = False

    def __post_init__(self) -> None:
        input_size, box, levels = self.input_size, self.box, self.levels
        for name, fits, wanted in (
            ('input_size', is_input_size(input_size), INPUT_SIZES),
            ('max_size', _is_integer(self.max_size, STRIDE), f'an integer, {STRIDE} or more'),
            ('batch_size', _is_integer(self.batch_size, 1, LARGEST_BATCH), f'an integer, 1 to {LARGEST_BATCH}'),
            ('scales', _are(self.scales, lambda scale: _is_number(scale, 0, 4) and scale > 0), 'numbers in (0, 4]'),
            ('margin', _is_number(self.margin, 0), 'finite, 0 or more'),
            (
                'threshold',
                self.threshold is None or (_is_number(self.threshold, 0, 1) and self.threshold < 1),
                'in [0, 1)',
            ),
            ('min_area', _is_number(self.min_area, 0), 'finite, 0 or more'),
            ('levels', levels is None or _are_levels(levels), '(low, high) with 0 <= low < high <= 1'),
            ('grow', _is_integer(self.grow, -MOST_PIXELS, MOST_PIXELS), f'an integer up to ±{MOST_PIXELS}'),
            ('feather', _is_number(self.feather, 0, MOST_PIXELS), f'in [0, {MOST_PIXELS}]'),
            (
                'tile',
                self.tile is None or (_is_integer(self.tile, 2 * STRIDE, LONGEST_SIDE) and self.tile % STRIDE == 0),
                f'pixels in multiples of {STRIDE}, from {2 * STRIDE} to {LONGEST_SIDE}',
            ),
            (
                'tile_overlap',
                self.tile_overlap is None
                or (_is_integer(self.tile, STRIDE) and _is_integer(self.tile_overlap, 0, self.tile - STRIDE)),
                f'pixels, at least {STRIDE} less than tile, which must be given',
            ),
            (
                'box',
                box is None or _is_box(box),
                '(left, top, right, bottom) in pixels with left < right, top < bottom',
            ),
            (
                'refine',
                self.refine is None or _is_method(self.refine),
                f'None or one of {", ".join(METHODS)}',
            ),
            *(
                (name, isinstance(getattr(self, name), (bool, np.bool_)), 'True or False')
                for name in ('flip', 'largest', 'fill_holes', 'invert', 'two_pass')
            ),
        ):
            if not fits:
                raise ValueError(f'{name}={getattr(self, name)!r}, must be {wanted}')

    @property
    def overlap(self) -> int:
        """Pixels that neighboring tiles share; 0 without tiles."""
        return (self.tile or 0) // 4 if self.tile_overlap is None else self.tile_overlap

    def sizes(
        self, image: tuple[int, int], trained: tuple[int, int], side_range: tuple[int, int] | None = None
    ) -> list[tuple[int, int]]:
        """Compute the input sizes (H, W), one for each scale.

        Args:
            image: (H, W) of the image, or of the crop for the model.
            trained: (H, W) that the model was trained at.
            side_range: Shortest and longest side, for a model that was trained at dynamic size. It runs at the size of
                ``image`` unless ``input_size`` is given.
        """
        if self.input_size is None and self.tile is not None and max(image) > self.tile:
            base = image
        elif self.input_size is None and side_range is not None:
            base = _own_size(image, side_range[0], min(side_range[1], self.max_size))
        elif self.input_size is None:
            base = trained
        elif isinstance(self.input_size, str):
            shrink = min(1.0, self.max_size / max(image))
            base = (image[0] * shrink, image[1] * shrink)
        else:
            base = (self.input_size,) * 2 if isinstance(self.input_size, Integral) else tuple(self.input_size)
        return [tuple(_round(side * scale) for side in base) for scale in self.scales]


def parse_size(text: str) -> int | tuple[int, int] | str:
    """Parse an ``input_size``: ``'1024'``, ``'1024x2048'`` (height x width), or ``'image'``.

    Raises:
        ValueError: If it is none of these.
    """
    if text == 'image':
        return text
    try:
        sides = tuple(int(side) for side in text.lower().split('x'))
        size = sides[0] if len(sides) == 1 else sides
        Settings(input_size=size)
    except ValueError as error:
        raise ValueError(f'{text!r:.99} must be image, or pixels or HEIGHTxWIDTH in multiples of {STRIDE}') from error
    return size


def _own_size(image: tuple[int, int], shortest: int, longest: int) -> tuple[float, float]:
    """Size of an image, scaled so that its sides are in a range; the aspect ratio is kept if possible."""
    scale = min(longest / max(image), max(1.0, shortest / min(image)))
    return tuple(min(max(side * scale, shortest), longest) for side in image)


def _round(side: float) -> int:
    return max(STRIDE, round(side / STRIDE) * STRIDE)


INPUT_SIZES = f"'image', or pixels or (height, width) in multiples of {STRIDE}, at most {LONGEST_SIDE}"


def is_input_size(size: object) -> bool:
    """Whether a value is a valid ``input_size``."""
    if size is None or isinstance(size, str):
        return size in (None, 'image')
    sides = (size, size) if isinstance(size, Integral) else size
    return _are(sides, lambda side: _is_integer(side, STRIDE, LONGEST_SIDE) and side % STRIDE == 0, 2)


def _is_method(refine) -> bool:
    return isinstance(refine, str) and refine in METHODS


def _is_integer(value, low: float, high: float = float('inf')) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and low <= value <= high


def _is_number(value, low: float, high: float = float('inf')) -> bool:
    """Whether a value is a finite number in a range."""
    return isinstance(value, Real) and not isinstance(value, bool) and low <= value <= high and value < float('inf')


def _are(values, fit: Callable[..., bool], count: int | None = None) -> bool:
    """Whether a value is a sequence with only items that fit: ``count`` items, or at least one by default."""
    if isinstance(values, (str, bytes)) or not isinstance(values, (Sequence, np.ndarray)):
        return False
    if getattr(values, 'ndim', 1) != 1:
        return False
    return len(values) == (count or max(1, len(values))) and all(map(fit, values))


def _is_box(box) -> bool:
    return _are(box, lambda side: _is_number(side, -FARTHEST, FARTHEST), 4) and box[0] < box[2] and box[1] < box[3]


def _are_levels(levels) -> bool:
    return _are(levels, lambda level: _is_number(level, 0, 1), 2) and levels[0] < levels[1]
