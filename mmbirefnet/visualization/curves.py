"""Precision-recall and F-measure curves, and curves of a training."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

THRESHOLDS = np.arange(255, -1, -1)
"""Thresholds of the entries of a curve, first to last."""


def draw_curves(curves: Mapping[str, Mapping[str, np.ndarray]], title: str, path: str | Path) -> None:
    """Write a figure: precision over recall on the left, F-measure over the threshold on the right.

    Args:
        curves: For each method, its mean curves ``precision``, ``recall`` and ``Fm``, float (256,) at the thresholds
            255 ... 0.
        title: Title of the figure.
        path: File to write; the suffix sets the format (png, pdf, svg).
    """
    figure = Figure(figsize=(10, 4.5), layout='constrained')
    FigureCanvasAgg(figure)  # without a display, and without the global state of pyplot
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


def draw_history(work_dir: str | Path, path: str | Path) -> None:
    """Write a figure of a run: training and validation loss on the left, validation scores on the right.

    Args:
        work_dir: Work directory of the run; the scalars that ``LocalVisBackend`` wrote are read, of all sessions.
        path: File to write.
    """
    losses, scores = defaultdict(list), defaultdict(list)
    for file in sorted(Path(work_dir).glob('*/vis_data/scalars.json')):
        for line in file.read_text('utf-8').splitlines():
            entry = json.loads(line)
            if 'epoch' in entry:  # of training
                losses['training'].append((entry['epoch'], entry['loss']))
            else:  # of a validation, whose step is the epoch
                if 'loss' in entry:
                    losses['validation'].append((entry['step'], entry['loss']))
                for name, value in entry.items():
                    if 'loss' not in name and 'time' not in name and name != 'step':
                        scores[name].append((entry['step'], value))
    figure = Figure(figsize=(10, 4), layout='constrained')
    FigureCanvasAgg(figure)
    for axes, curves, label in zip(figure.subplots(1, 2), (losses, scores), ('loss', 'score')):
        for name, points in curves.items():
            axes.plot(*zip(*points), marker='.', label=name)
        axes.set(xlabel='epoch', ylabel=label)
        axes.grid(alpha=0.3)
        if curves:
            axes.legend(fontsize='small')
    figure.savefig(path, dpi=120)
