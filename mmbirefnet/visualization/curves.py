"""Precision-recall and F-threshold curves."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

THRESHOLDS = np.arange(255, -1, -1)
"""Of the curves' entries, first to last."""


def draw_curves(curves: Mapping[str, Mapping[str, np.ndarray]], title: str, path: str | Path) -> None:
    """Write a picture: precision over recall on the left, F-measure over the threshold on the right.

    Args:
        curves: for each method its mean curves ``precision``, ``recall`` and ``Fm``, float (256,) at the thresholds
            255 ... 0.
        title: above the picture.
        path: file to write; its suffix tells the format (png, pdf, svg).
    """
    figure = Figure(figsize=(10, 4.5), layout='constrained')
    FigureCanvasAgg(figure)  # no display, and no state shared with pyplot
    left, right = figure.subplots(1, 2)
    for method, curve in curves.items():
        left.plot(curve['recall'], curve['precision'], label=method)
        right.plot(THRESHOLDS, curve['Fm'], label=method)
    left.set(xlabel='recall', ylabel='precision', xlim=(0, 1), ylim=(0, 1.02))
    right.set(xlabel='threshold', ylabel='F-measure', xlim=(0, 255), ylim=(0, 1.02))
    for axes in (left, right):
        axes.grid(alpha=0.3)
    right.legend(loc='lower center', fontsize='small')
    figure.suptitle(title)
    figure.savefig(path, dpi=120)
