"""Scoring of soft maps; see ``docs/benchmark.md``."""

import mmbirefnet.needs_openmmlab  # noqa: F401
from mmbirefnet.evaluation.metric import DichotomousMetric

from .scoring import LOWER_IS_BETTER, METRICS, aggregate, score_pair
from .skeleton_cache import SkeletonCache

__all__ = ['DichotomousMetric', 'LOWER_IS_BETTER', 'METRICS', 'SkeletonCache', 'aggregate', 'score_pair']
