"""Scores of single images and of sets of images; no framework needed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

import numpy as np

from .functional.boundary import boundary_iou_curve, mean_boundary_accuracy
from .functional.correction_effort import human_correction_effort
from .functional.pair import Pair
from .functional.structure import mean_absolute_error, mean_squared_error, smeasure
from .functional.threshold_curves import (
    adaptive_emeasure,
    adaptive_fmeasure,
    emeasure_curve,
    fmeasure_curve,
    precision_recall_curves,
)
from .functional.weighted_fmeasure import weighted_fmeasure

Scores = dict  # name -> float, or curve float64 (256,)

_SCALARS = dict(
    wFmeasure=weighted_fmeasure,
    MAE=mean_absolute_error,
    MSE=mean_squared_error,
    Smeasure=smeasure,
    HCE=human_correction_effort,
    adpEm=adaptive_emeasure,
    adpFm=adaptive_fmeasure,
    mBA=mean_boundary_accuracy,
)
_CURVES = dict(Fm=fmeasure_curve, Em=emeasure_curve, BIoU=boundary_iou_curve)
_REDUCTIONS = dict(max=np.max, mean=np.mean)

METRICS = (
    'maxFm', 'wFmeasure', 'MAE', 'Smeasure', 'meanEm', 'HCE', 'maxEm', 'meanFm', 'adpEm', 'adpFm', 'mBA', 'maxBIoU',
    'meanBIoU', 'MSE',
)  # fmt: skip
LOWER_IS_BETTER = frozenset(('MAE', 'MSE', 'HCE'))


def check_metrics(metrics: Sequence[str] | None) -> tuple:
    """The names in the order of ``METRICS``; all of them for ``None``.

    Raises:
        ValueError: if one is unknown, or none is given.
    """
    if metrics is None:
        return METRICS
    metrics = [metrics] if isinstance(metrics, str) else list(metrics)
    unknown = sorted(set(metrics) - set(METRICS))
    if unknown or not metrics:
        raise ValueError(f'metrics: expected some of {", ".join(METRICS)}; got {", ".join(unknown) or "none"}')
    return tuple(name for name in METRICS if name in metrics)


def score_pair(
    score_map: np.ndarray,
    mask: np.ndarray,
    metrics: Sequence[str] | None = None,
    skeleton: np.ndarray | None = None,
    alpha: np.ndarray | None = None,
    stretch_hce: bool = False,
) -> Scores:
    """Score one map.

    Args:
        score_map: uint8 (H, W), the probability times 255, truncated.
        mask: bool (H, W), the annotation above 128 of 255.
        metrics: names out of ``METRICS``; all by default.
        skeleton: bool (H, W), the mask's skeleton if it is already known; saves most of the time that HCE takes.
        alpha: float32 (H, W) in [0, 1], the soft annotation. If given, ``MAE`` and ``MSE`` compare the map, not
            stretched, with this soft mask; all other measures use ``mask``.
        stretch_hce: ``HCE`` as PySODMetrics computes it, of the stretched map above 0.5. By default it is that of the
            map above 128, as in the reference evaluation.

    Returns:
        The measures that do not depend on a threshold as floats; of those that do, the curves ``Fm``, ``Em`` and
        ``BIoU`` (and ``precision``, ``recall`` beside ``Fm``), float64 (256,), at the thresholds 255 ... 0.

    Example:
        >>> mask = np.zeros((40, 40), bool)
        >>> mask[10:30, 10:30] = True
        >>> score_pair(mask * np.uint8(255), mask, metrics=['MAE', 'HCE'])
        {'MAE': 0.0, 'HCE': 0.0}
    """
    pair = Pair(score_map, mask, skeleton, alpha)
    scalars = _SCALARS | dict(HCE=partial(human_correction_effort, stretch=stretch_hce))
    scores: Scores = {}
    for name in check_metrics(metrics):
        curve = curve_of(name)
        if curve is None:
            scores[name] = scalars[name](pair)
        elif curve not in scores:
            scores[curve] = _CURVES[curve](pair)
            if curve == 'Fm':
                scores['precision'], scores['recall'] = precision_recall_curves(pair)
    return scores


def curve_of(metric: str) -> str | None:
    """The curve which a metric is the maximum or mean of, if it is one: ``maxFm`` gives ``Fm``."""
    for prefix in _REDUCTIONS:
        if metric.startswith(prefix):
            return metric[len(prefix) :]
    return None


def summarise(scores: Scores) -> dict[str, float]:
    """The metrics of one image, or of a set's mean scores, in the order of ``METRICS``.

    Maximum and mean are taken of the set's mean curve: ``maxFm`` is not the mean of the images' maxima.
    """
    summary = {}
    for name in METRICS:
        curve = curve_of(name)
        if curve is None and name in scores:
            summary[name] = float(scores[name])
        elif curve in scores:
            reduce = _REDUCTIONS[name[: -len(curve)]]
            summary[name] = float(reduce(scores[curve]))
    return summary


def mean_scores(scores: Iterable[Scores]) -> Scores:
    """Mean over images of each score and curve.

    Raises:
        ValueError: if there is no image.
    """
    scores: list[Scores] = list(scores)
    if not scores:
        raise ValueError('no image to average over')
    return {name: np.mean([s[name] for s in scores], axis=0) for name in scores[0]}


def aggregate(scores: Iterable[Scores], metrics: Sequence[str] | None = None) -> dict[str, float]:
    """The metrics of a set of images from their scores (as ``score_pair`` returns them).

    Args:
        scores: one entry per image.
        metrics: names out of ``METRICS``; all those that were scored by default.
    """
    summary = summarise(mean_scores(scores))
    return summary if metrics is None else {name: summary[name] for name in check_metrics(metrics)}
