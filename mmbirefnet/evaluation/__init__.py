"""Scoring of soft maps; see ``docs/benchmark.md``."""

import mmbirefnet.needs_openmmlab  # noqa: F401
from mmbirefnet.evaluation.metric import DichotomousMetric

from .functional import MEASURES, register_curve, register_measure
from .scoring import aggregate, lower_is_better, score_pair

__all__ = [
    'MEASURES',
    'DichotomousMetric',
    'aggregate',
    'lower_is_better',
    'register_curve',
    'register_measure',
    'score_pair',
]
