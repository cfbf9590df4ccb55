"""Checkpoints of a work directory in the order of their scores."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from mmbirefnet.evaluation.scoring import LOWER_IS_BETTER, METRICS

_CHECKPOINT = re.compile(r'(?:best_.+_)?(?:epoch|iter)_(\d+)\.pth')


def find_checkpoints(work_dir: str | Path) -> dict[int, Path]:
    """Checkpoints by their epoch or iteration; of two of one epoch the one that is not named ``best_...``.

    Raises:
        FileNotFoundError: if there is none.
    """
    found: dict[int, Path] = {}
    for path in sorted(Path(work_dir).glob('*.pth')):  # 'best_...' sorts before 'epoch_...', which replaces it
        match = _CHECKPOINT.fullmatch(path.name)
        if match:
            found[int(match[1])] = path
    if not found:
        raise FileNotFoundError(f'{work_dir}: no checkpoint epoch_*.pth, iter_*.pth or best_*.pth')
    return dict(sorted(found.items()))


def read_logged_scores(work_dir: str | Path) -> dict[int, dict[str, float]]:
    """Validation scores that the runs in a work directory logged, by epoch or iteration; later runs count."""
    scores: dict[int, dict[str, float]] = {}
    for path in sorted(Path(work_dir).glob('*/vis_data/scalars.json')):
        for line in path.read_text().splitlines():
            entry = json.loads(line)
            metrics = {key: value for key, value in entry.items() if is_metric(key)}
            if metrics and 'lr' not in entry:
                scores.setdefault(entry['step'], {}).update(metrics)
    return scores


def is_metric(key: str) -> bool:
    """Whether a key of a log is one of our metrics, with or without a set before it: ``HCE``, ``DIS-VD/HCE``."""
    return key.rpartition('/')[2] in METRICS


def rank(scores: Mapping[int, Mapping[str, float]], metrics: Sequence[str]) -> list[int]:
    """Keys of ``scores``, the best first: by the mean of their ranks on each metric, then by the first metric.

    Args:
        scores: of each checkpoint; those that lack one of the metrics are left out.
        metrics: keys of the scores. Of MAE, MSE and HCE less is better.

    Raises:
        ValueError: if one is none of our metrics.
    """
    unknown = [metric for metric in metrics if not is_metric(metric)]
    if unknown or not metrics:
        raise ValueError(f'metrics: expected some of {", ".join(METRICS)}; got {", ".join(unknown) or "none"}')
    complete = [key for key, row in scores.items() if all(metric in row for metric in metrics)]
    if not complete:
        return []
    # Sorted alike: the smaller, the better.
    values = np.array([[_cost(metric, scores[key][metric]) for metric in metrics] for key in complete])
    # Equal scores share the best of their ranks.
    ranks = (values[None, :, :] < values[:, None, :]).sum(axis=1)
    order = np.lexsort((values[:, 0], ranks.mean(axis=1)))
    return [complete[index] for index in order]


def _cost(metric: str, value: float) -> float:
    return value if metric.rpartition('/')[2] in LOWER_IS_BETTER else -value
