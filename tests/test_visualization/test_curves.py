"""Figures of curves: the plotted points are those of the curves and of the log."""

import json

import cv2
import numpy as np
import pytest
from matplotlib.figure import Figure

from mmbirefnet.visualization.curves import draw_curves, draw_history


@pytest.fixture
def figures(monkeypatch):
    """The figures that are saved, in place of their files."""
    saved = []
    monkeypatch.setattr(Figure, 'savefig', lambda self, *_, **__: saved.append(self))
    return saved


def points_of(axes):
    return {
        line.get_label(): list(zip(*map(np.ndarray.tolist, map(np.asarray, line.get_data())))) for line in axes.lines
    }


def test_curves_of_two_methods(figures):
    ramp = np.arange(256) / 255  # from threshold 255 down to 0
    curves = {
        'ours': dict(precision=1 - ramp / 2, recall=ramp, Fm=ramp / 4),
        'other': dict(precision=np.full(256, 0.5), recall=ramp**2, Fm=ramp),
    }
    draw_curves(curves, 'DIS-VD', 'unused.png')
    ((left, right),) = (figure.axes for figure in figures)
    precision_recall, f_measure = points_of(left), points_of(right)
    assert list(precision_recall) == list(f_measure) == ['ours', 'other']
    assert (precision_recall['ours'][0], precision_recall['ours'][-1]) == ((0, 1), (1, 0.5))
    assert precision_recall['other'][51] == pytest.approx((0.04, 0.5))
    assert (f_measure['ours'][0], f_measure['ours'][-1]) == ((255, 0), (0, 0.25))
    assert f_measure['other'][51] == pytest.approx((204, 0.2))
    assert [text.get_text() for text in right.get_legend().get_texts()] == ['ours', 'other']


def test_file_of_curves(tmp_path):
    curve = dict(precision=np.ones(256), recall=np.ones(256), Fm=np.ones(256))
    draw_curves({'ours': curve}, 'DIS-VD', tmp_path / 'curves.png')
    image = cv2.imread(str(tmp_path / 'curves.png'))
    assert image.shape == (540, 1200, 3)  # 10 by 4.5 inches at 120 pixels per inch
    assert (image[0] == 255).all()
    assert image.min() < 64  # the axes are dark


def test_history_of_a_resumed_run(tmp_path, figures):
    sessions = {
        '20260101_000000': [
            dict(epoch=1, iter=10, loss=0.5, lr=1e-4, time=0.1, step=10),
            dict(step=1, MAE=0.25, loss=0.75, loss_bce=0.5, data_time=0.1, time=0.2),
        ],
        '20260102_000000': [
            dict(epoch=2, iter=20, loss=0.25, lr=1e-4, time=0.1, step=20),
            dict(step=2, MAE=0.125, data_time=0.1, time=0.2),
        ],
    }
    for name, entries in sessions.items():
        path = tmp_path / name / 'vis_data/scalars.json'
        path.parent.mkdir(parents=True)
        path.write_text(''.join(json.dumps(entry) + '\n' for entry in entries))
    draw_history(tmp_path, 'unused.png')
    ((left, right),) = (figure.axes for figure in figures)
    assert points_of(left) == {'training': [(1, 0.5), (2, 0.25)], 'validation': [(1, 0.75)]}
    assert points_of(right) == {'MAE': [(1, 0.25), (2, 0.125)]}


def test_history_without_a_log(tmp_path, figures):
    draw_history(tmp_path, 'unused.png')
    (figure,) = figures
    assert [points_of(axes) for axes in figure.axes] == [{}, {}]
