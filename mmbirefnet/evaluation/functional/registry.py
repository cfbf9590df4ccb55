"""The measures by name. A new one is one file in this folder: a function of a ``Pair``, registered here."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from .pair import Pair


class Measure(NamedTuple):
    """A measure of an image and, averaged over images, of a set."""

    name: str
    latex: str
    """Its column head in LaTeX."""
    function: Callable[[Pair], float | np.ndarray]
    """The value of a pair, or the curve float64 (256,) at the thresholds 255 ... 0."""
    lower_is_better: bool = False
    digits: int = 3
    """Digits after the point in tables."""
    curve: str | None = None
    """Name of the curve, for measures that reduce one."""
    reduce: Callable[[np.ndarray], float] = np.asarray
    """Computes the set's value from its mean curve."""
    needs: str | None = None
    """``'soft mask'`` or ``'trimap'``: by default, the measure is computed only where there is one."""


MEASURES: dict[str, Measure] = {}


def register_measure(
    name: str, latex: str, lower_is_better: bool = False, digits: int = 3, needs: str | None = None
) -> Callable:
    """Decorator of a function of a ``Pair`` that returns a float.

    Args:
        name: Name of the measure, also the key of its scores.
        latex: Its column head in LaTeX, such as ``'$MAE$'``.
        lower_is_better: Whether smaller values are better.
        digits: Digits after the point in tables.
        needs: ``'soft mask'`` or ``'trimap'`` for a measure that is computed by default only where there is one.

    Raises:
        ValueError: If the name is taken.
    """

    def register(function: Callable[[Pair], float]) -> Callable[[Pair], float]:
        _add(Measure(name, latex, function, lower_is_better, digits, needs=needs))
        return function

    return register


def register_curve(curve: str, **measures: tuple[Callable[[np.ndarray], float], str]) -> Callable:
    """Decorator of a function of a ``Pair`` that returns a curve over the thresholds 255 ... 0, float64 (256,).

    A set's value reduces the mean curve of its images: ``maxFm`` is not the mean of the images' maxima.

    Args:
        curve: Name of the curve.
        measures: Reduction and LaTeX head of each measure of the curve, by its name.

    Raises:
        ValueError: If a name is taken.
    """

    def register(function: Callable[[Pair], np.ndarray]) -> Callable[[Pair], np.ndarray]:
        for name, (reduce, latex) in measures.items():
            _add(Measure(name, latex, function, curve=curve, reduce=reduce))
        return function

    return register


def _add(measure: Measure) -> None:
    if measure.name in MEASURES:
        raise ValueError(f'there is a measure {measure.name} already; choose another name')
    MEASURES[measure.name] = measure
