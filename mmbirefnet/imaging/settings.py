"""Options of a prediction, checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

MOST_PIXELS = 500  # to grow or feather by: the work grows with it
STRIDE = 32  # heights and widths that a model takes are multiples of it


@dataclass(frozen=True)
class Settings:
    """How maps are predicted.

    Attributes:
        input_size: Size the image is resized to for the model: ``None`` for the one it was trained at, pixels of a
            square, (height, width), or ``'image'`` for the image's own, rounded to multiples of 32. Models of dynamic
            size take the image's own by default, within the range of sides that they were trained at.
        max_size: At the image's own size, the longer side is at most this many pixels; the aspect ratio is kept.
        batch_size: Images that the model is given at once, where their input sizes agree.
        flip: Average with the map of the mirrored image.
        scales: Factors of the input size, whose maps are averaged.
        box: (left, top, right, bottom) in pixels of the upright image: the object is looked for in there, and the map
            is 0 outside.
        margin: What the model is shown around the box, as a share of the box's sides.
        threshold: Makes the map binary: 1 where it exceeds this.
        min_area: Removes components that are smaller: in pixels from 1 on, below 1 as a share of the image.
        levels: (low, high): the map becomes 0 up to ``low``, 1 from ``high`` on, and linear between.
        largest: Whether to keep only the largest component.
        fill_holes: Whether to set what an object encloses to 1.
        grow: Pixels that the object grows by; a negative number shrinks it.
        feather: Standard deviation, in pixels, of a Gaussian that softens the edge; 0 for none.
        invert: Whether to exchange object and background.

    The operations on the map are applied in this order: levels, min_area, largest, fill_holes, threshold, grow,
    feather, invert.

    Raises:
        ValueError: If an option is out of its range.
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

    def __post_init__(self) -> None:
        self._check_input_size()
        for name, fits, wanted in (
            ('max_size', self.max_size >= STRIDE, f'{STRIDE} or more'),
            ('batch_size', self.batch_size >= 1, '1 or more'),
            ('scales', len(self.scales) and all(0 < s <= 4 for s in self.scales), 'numbers in (0, 4]'),
            ('margin', self.margin >= 0, '0 or more'),
            ('threshold', self.threshold is None or 0 <= self.threshold < 1, 'in [0, 1)'),
            ('min_area', self.min_area >= 0, '0 or more'),
            ('levels', self.levels is None or _are_levels(self.levels), '(low, high) with 0 <= low < high <= 1'),
            ('grow', isinstance(self.grow, int) and abs(self.grow) <= MOST_PIXELS, f'an integer up to ±{MOST_PIXELS}'),
            ('feather', 0 <= self.feather <= MOST_PIXELS, f'in [0, {MOST_PIXELS}]'),
            (
                'box',
                self.box is None or _is_box(self.box),
                '(left, top, right, bottom) with left < right, top < bottom',
            ),
        ):
            if not fits:
                raise ValueError(f'{name}={getattr(self, name)!r}, must be {wanted}')

    def _check_input_size(self) -> None:
        size = self.input_size
        if size is None or size == 'image':
            return
        sides = (size, size) if isinstance(size, int) else tuple(size) if not isinstance(size, str) else ()
        if len(sides) != 2 or any(not isinstance(side, int) or side < STRIDE or side % STRIDE for side in sides):
            raise ValueError(
                f"input_size={size!r}, must be 'image', or pixels or (height, width) in multiples of {STRIDE}"
            )

    def sizes(
        self, image: tuple[int, int], trained: tuple[int, int], side_range: tuple[int, int] | None = None
    ) -> list[tuple[int, int]]:
        """Input sizes (H, W), one for each scale.

        Args:
            image: (H, W) of the image, or of the part that the model is shown.
            trained: (H, W) that the model was trained at.
            side_range: Shortest and longest side, for a model that was trained at dynamic size; it is run at the size
                of ``image`` then, unless ``input_size`` is given.
        """
        if self.input_size is None and side_range is not None:
            base = _own_size(image, side_range[0], min(side_range[1], self.max_size))
        elif self.input_size is None:
            base = trained
        elif self.input_size == 'image':
            shrink = min(1.0, self.max_size / max(image))
            base = (image[0] * shrink, image[1] * shrink)
        else:
            base = (self.input_size,) * 2 if isinstance(self.input_size, int) else tuple(self.input_size)
        return [tuple(_round(side * scale) for side in base) for scale in self.scales]


def _own_size(image: tuple[int, int], shortest: int, longest: int) -> tuple[float, float]:
    """Size of an image with its sides in a range; the aspect ratio is kept unless it does not fit the range."""
    scale = min(longest / max(image), max(1.0, shortest / min(image)))
    return tuple(min(max(side * scale, shortest), longest) for side in image)


def _round(side: float) -> int:
    return max(STRIDE, round(side / STRIDE) * STRIDE)


def _is_box(box: Sequence[float]) -> bool:
    return len(box) == 4 and box[0] < box[2] and box[1] < box[3]


def _are_levels(levels: Sequence[float]) -> bool:
    return len(levels) == 2 and 0 <= levels[0] < levels[1] <= 1
