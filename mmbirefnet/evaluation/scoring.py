"""Scores of single images and of sets of images, without a framework."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from .functional import MEASURES
from .functional.pair import Pair
from .functional.threshold_curves import precision_recall_curves

Scores = dict  # name of a measure or curve -> float, or curve float64 (256,)


def check_measures(measures: Sequence[str] | None, soft_masks: bool = False, trimaps: bool = False) -> tuple:
    """Sort the names in the order of ``MEASURES``; ``None`` means all that the masks allow.

    Args:
        measures: Names, or ``None``.
        soft_masks: Whether masks are soft, which adds the measures of mattes to the default.
        trimaps: Whether there are trimaps, which adds the measures of their unknown region to the default.

    Raises:
        ValueError: If a measure is unknown, if it needs a trimap and there is none, or if no measure is given.
    """
    there = {None, *(['soft mask'] if soft_masks else []), *(['trimap'] if trimaps else [])}
    if measures is None:
        return tuple(name for name, measure in MEASURES.items() if measure.needs in there)
    measures = [measures] if isinstance(measures, str) else list(measures)
    unknown = sorted(set(measures) - set(MEASURES))
    if unknown or not measures:
        raise ValueError(f'measures: expected some of {", ".join(MEASURES)}; got {", ".join(unknown) or "none"}')
    without = [name for name in measures if MEASURES[name].needs == 'trimap' and not trimaps]
    if without:
        raise ValueError(f'measures: {", ".join(without)} need trimaps. Fix: give trimap, a folder or pixels')
    return tuple(name for name in MEASURES if name in measures)


def lower_is_better(measure: str) -> bool:
    """Whether smaller values of a measure are better; the name may include a set, as in ``DIS-VD/MAE``."""
    return MEASURES[measure.rpartition('/')[2]].lower_is_better


def score_pair(
    score_map: np.ndarray,
    mask: np.ndarray,
    measures: Sequence[str] | None = None,
    alpha: np.ndarray | None = None,
    stretch_hce: bool = False,
    unknown: np.ndarray | None = None,
) -> Scores:
    """Score one prediction.

    Args:
        score_map: uint8 (H, W), the probability times 255, truncated.
        mask: bool (H, W), the ground truth above 128 of 255.
        measures: Names of ``MEASURES``; by default all, but those of mattes only with ``alpha``, and those of a trimap
            only with ``unknown``.
        alpha: float32 (H, W) in [0, 1], the soft ground truth. If given, ``MAE``, ``MSE`` and the measures of mattes
            compare the map, not stretched, with this soft mask; all other measures use ``mask``.
        stretch_hce: Compute ``HCE`` from the stretched map above 0.5, as PySODMetrics does. By default, it is computed
            from the map above 128, as in the reference evaluation.
        unknown: bool (H, W), the unknown region of a trimap.

    Returns:
        Floats for measures without a threshold. For the others, the curves ``Fm``, ``Em`` and ``BIoU`` (and
        ``precision`` and ``recall`` with ``Fm``), float64 (256,), at the thresholds 255 ... 0.

    Example:
        >>> mask = np.zeros((40, 40), bool)
        >>> mask[10:30, 10:30] = True
        >>> score_pair(mask * np.uint8(255), mask, measures=['MAE', 'HCE'])
        {'MAE': 0.0, 'HCE': 0.0}
    """
    pair = Pair(score_map, mask, alpha, stretch_hce, unknown)
    scores: Scores = {}
    for measure in (MEASURES[name] for name in check_measures(measures, alpha is not None, unknown is not None)):
        key = measure.curve or measure.name
        if key not in scores:
            scores[key] = measure.function(pair)
        if key == 'Fm':
            scores['precision'], scores['recall'] = precision_recall_curves(pair)
    return scores


def summarize(scores: Scores) -> dict[str, float]:
    """Reduce the scores of an image, or the mean scores of a set, to measures in the order of ``MEASURES``.

    Maximum and mean of a set are those of its mean curve, so ``maxFm`` is not the mean of the maxima of the images.
    """
    keys = {name: measure.curve or name for name, measure in MEASURES.items()}
    return {name: float(MEASURES[name].reduce(scores[key])) for name, key in keys.items() if key in scores}


def mean_scores(scores: Iterable[Scores]) -> Scores:
    """Mean over images of each score and curve.

    Raises:
        ValueError: If there is no image.
    """
    scores: list[Scores] = list(scores)
    if not scores:
        raise ValueError('no image to average over')
    return {name: np.mean([s[name] for s in scores], axis=0) for name in scores[0]}


def aggregate(scores: Iterable[Scores], measures: Sequence[str] | None = None) -> dict[str, float]:
    """Compute the measures of a set of images from their scores, see :func:`score_pair`.

    Args:
        scores: One entry per image.
        measures: Names of ``MEASURES``; by default all that were scored.
    """
    summary = summarize(mean_scores(scores))
    return summary if measures is None else {name: summary[name] for name in check_measures(measures, trimaps=True)}
