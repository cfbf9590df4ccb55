"""The measures by name. A new measure is a file in this folder with a function of a ``Pair``, registered here."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from .pair import Pair


class Measure(NamedTuple):
    """A measure of an image; that of a set is the mean over its images."""

    name: str
    latex: str
    """Column title in LaTeX."""
    function: Callable[[Pair], float | np.ndarray]
    """Returns the value of a pair, or the curve, float64 (256,), at the thresholds 255 ... 0."""
    lower_is_better: bool = False
    digits: int = 3
    """Digits after the point in tables."""
    curve: str | None = None
    """Name of the curve, for measures that reduce a curve."""
    reduce: Callable[[np.ndarray], float] = np.asarray
    """Computes the value of a set from its mean curve."""
    needs: str | None = None
    """``'soft mask'`` or ``'trimap'`` if the measure is computed by default only when there is one."""


MEASURES: dict[str, Measure] = {}


def register_measure(
    name: str, latex: str, lower_is_better: bool = False, digits: int = 3, needs: str | None = None
) -> Callable:
    """Decorator of a function of a ``Pair`` that returns a float.

    Args:
        name: Name of the measure, also the key of its scores.
        latex: Column title in LaTeX, such as ``'$MAE$'``.
        lower_is_better: Whether smaller values are better.
        digits: Digits after the point in tables.
        needs: ``'soft mask'`` or ``'trimap'`` for a measure that is computed by default only when there is one.

    Raises:
        ValueError: If the name is taken.
    """

    def register(function: Callable[[Pair], float]) -> Callable[[Pair], float]:
        _add(Measure(name, latex, function, lower_is_better, digits, needs=needs))
        return function

    return register


def register_curve(curve: str, **measures: tuple[Callable[[np.ndarray], float], str]) -> Callable:
    """Decorator of a function of a ``Pair`` that returns a curve over the thresholds 255 ... 0, float64 (256,).

    The value of a set is computed from the mean curve of its images, so ``maxFm`` is not the mean of the maxima of the
    images.

    Args:
        curve: Name of the curve.
        measures: Reduction and LaTeX title of each measure of the curve, by its name.

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
