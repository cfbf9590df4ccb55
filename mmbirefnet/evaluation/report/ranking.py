"""Checkpoints of a work directory in the order of their scores."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from mmbirefnet.evaluation.functional import MEASURES
from mmbirefnet.evaluation.scoring import lower_is_better

_CHECKPOINT = re.compile(r'(?:best_.+_)?(?:epoch|iter)_(\d+)\.pth')


def find_checkpoints(work_dir: str | Path) -> dict[int, Path]:
    """Checkpoints by their epoch or iteration; of two of one epoch the one that is not named ``best_...``.

    Raises:
        FileNotFoundError: If there is no checkpoint.
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
            measures = {key: value for key, value in entry.items() if is_measure(key)}
            if measures and 'lr' not in entry:
                scores.setdefault(entry['step'], {}).update(measures)
    return scores


def is_measure(key: str) -> bool:
    """Whether a key of a log is one of our measures, with or without a set before it: ``HCE``, ``DIS-VD/HCE``."""
    return key.rpartition('/')[2] in MEASURES


def rank(scores: Mapping[int, Mapping[str, float]], measures: Sequence[str]) -> list[int]:
    """Keys of ``scores``, the best first: by the mean of their ranks on each measure, then by the first measure.

    Args:
        scores: Scores of each checkpoint; checkpoints without one of the measures are skipped.
        measures: Keys of the scores. Of MAE, MSE and HCE lower is better.

    Raises:
        ValueError: If a measure is unknown.
    """
    unknown = [measure for measure in measures if not is_measure(measure)]
    if unknown or not measures:
        raise ValueError(f'measures: expected some of {", ".join(MEASURES)}; got {", ".join(unknown) or "none"}')
    complete = [key for key, row in scores.items() if all(measure in row for measure in measures)]
    if not complete:
        return []
    # Sorted alike: the smaller, the better.
    values = np.array([[_cost(measure, scores[key][measure]) for measure in measures] for key in complete])
    # Equal scores share the best of their ranks.
    ranks = (values[None, :, :] < values[:, None, :]).sum(axis=1)
    order = np.lexsort((values[:, 0], ranks.mean(axis=1)))
    return [complete[index] for index in order]


def _cost(measure: str, value: float) -> float:
    return value if lower_is_better(measure) else -value
