"""Scores of predictions; see ``docs/en/user_guides/benchmark.md``."""

import mmbirefnet.registry  # noqa: F401  checks the packages before they are imported
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
