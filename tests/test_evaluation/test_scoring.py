"""Scores against the golden figures, pysodmetrics, and values worked out by hand."""

import json
import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest

from mmbirefnet.evaluation import aggregate, score_pair
from mmbirefnet.evaluation.functional import weighted_fmeasure
from mmbirefnet.evaluation.metric import DichotomousMetric
from mmbirefnet.evaluation.scoring import check_measures, summarize

GOLDEN = Path(__file__).parents[1] / 'data' / 'metrics'
EXPECTED = json.loads((GOLDEN / 'expected.json').read_text())
SETS = {'dataset_of_six_pairs': [f'pair{k}' for k in range(6)]}


def load(name):
    score_map = cv2.imread(str(GOLDEN / 'pred' / f'{name}.png'), cv2.IMREAD_GRAYSCALE)
    return score_map, cv2.imread(str(GOLDEN / 'gt' / f'{name}.png'), cv2.IMREAD_GRAYSCALE) > 128


def pysodmetrics(score_map, mask):
    """The same scores by the library's own classes."""
    import py_sod_metrics  # takes seconds, so not in each process that collects the tests

    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        measures = dict(
            fm=py_sod_metrics.Fmeasure(),
            em=py_sod_metrics.Emeasure(),
            sm=py_sod_metrics.Smeasure(),
            wfm=py_sod_metrics.WeightedFmeasure(),
            mae=py_sod_metrics.MAE(),
            hce=py_sod_metrics.HumanCorrectionEffortMeasure(),
        )
        for measure in measures.values():
            measure.step(score_map, mask * np.uint8(255))
        results = {name: measure.get_results()[name] for name, measure in measures.items()}
    fm, em = results.pop('fm'), results.pop('em')
    return dict(
        maxFm=fm['curve'].max(), meanFm=fm['curve'].mean(), adpFm=fm['adp'], maxEm=em['curve'].max(),
        meanEm=em['curve'].mean(), adpEm=em['adp'], Smeasure=results['sm'], wFmeasure=results['wfm'],
        MAE=results['mae'], HCE=results['hce'],
    )  # fmt: skip


def random_pair(rng):
    """A mask and a map related to it more or less; sometimes constant, empty or full."""

    def field(sigma):
        noise = rng.random(shape)
        return cv2.GaussianBlur(noise, (0, 0), float(sigma)).reshape(shape) if sigma else noise

    shape = tuple(rng.integers(8, 120, 2))
    base = field(rng.choice([0, 1, 3, 8]))
    mask = base > np.quantile(base, rng.choice([0.02, 0.3, 0.7, 0.95]))
    score_map = rng.choice([0, 0.3, 1]) * (base - base.min()) / np.ptp(base) + rng.choice([0.2, 1, 3]) * field(2)
    score_map = (score_map / score_map.max() * rng.choice([80, 255, 400])).clip(0, 255).astype(np.uint8)
    special = rng.random()
    if special < 0.05:
        mask[:] = special < 0.025
    elif special < 0.15:
        score_map[:] = rng.integers(256)
    elif special < 0.25:
        score_map = mask * np.uint8(rng.integers(1, 256))
    return score_map, mask


@pytest.mark.parametrize('name', [name for name in EXPECTED if name not in SETS])
def test_golden_pair(name):
    scores = summarize(score_pair(*load(name)))
    assert tuple(scores) == check_measures(None)
    for metric, value in EXPECTED[name].items():
        assert scores[metric] == pytest.approx(value, abs=1e-9), metric
    assert 'HCE' not in EXPECTED[name] or scores['HCE'] == EXPECTED[name]['HCE']
    assert np.isfinite(list(scores.values())).all()


def test_golden_set():
    for name, members in SETS.items():
        scores = DichotomousMetric.calculate(*zip(*map(load, members), strict=True))
        assert set(scores) == set(EXPECTED[name])
        for metric, value in EXPECTED[name].items():
            assert scores[metric] == pytest.approx(value, abs=1e-9), metric


@pytest.mark.parametrize('name', ['0.png', '1.png', '2.png'])
def test_golden_hce(name):
    """Maps with many pixels at level 128, and maps that never reach 255."""
    folder = GOLDEN.parent / 'hce'
    score_map, mask = (cv2.imread(str(folder / kind / name), cv2.IMREAD_GRAYSCALE) for kind in ('pred', 'gt'))
    expected = json.loads((folder / 'expected.json').read_text())
    assert score_pair(score_map, mask > 128, ['HCE'])['HCE'] == expected[name]


def test_hce_of_a_weak_prediction():
    """An object nowhere above 128 is missing, however well its shape is seen once the map is stretched."""
    mask = np.zeros((60, 60), bool)
    mask[20:40, 20:40] = True
    for level, stretch, correct in ((128, False, False), (129, False, True), (60, False, False), (60, True, True)):
        effort = score_pair(mask * np.uint8(level), mask, ['HCE'], stretch_hce=stretch)['HCE']
        assert (effort == 0) == correct, (level, stretch)


@pytest.mark.parametrize('seed', range(60))
def test_equals_pysodmetrics(seed):
    score_map, mask = random_pair(np.random.default_rng(seed))
    ours = summarize(score_pair(score_map, mask, stretch_hce=True))
    for metric, value in pysodmetrics(score_map, mask).items():
        assert ours[metric] == pytest.approx(value, abs=1e-8), metric


def test_strips_of_weighted_f_join_without_seams(monkeypatch):
    rng = np.random.default_rng(3)
    field = cv2.GaussianBlur(rng.random((150, 90)), (0, 0), 1.5)
    mask, score_map = field > 0.5, rng.integers(0, 256, (150, 90), dtype=np.uint8)
    whole = score_pair(score_map, mask, ['wFmeasure'])['wFmeasure']
    monkeypatch.setattr(weighted_fmeasure, 'STRIP', 1)  # as narrow as they get
    assert score_pair(score_map, mask, ['wFmeasure'])['wFmeasure'] == pytest.approx(whole, abs=1e-14)


def test_maximum_is_of_the_mean_curve():
    mask = np.zeros((20, 20), bool)
    mask[:10] = True
    strict, lax = np.where(mask, 200, 100).astype(np.uint8), np.where(mask, 100, 50).astype(np.uint8)
    strict[0, 0] = lax[0, 0] = 255  # their best thresholds differ: 101..200, 51..100
    strict[-1, -1] = lax[-1, -1] = 0
    singles = [summarize(score_pair(m, mask)) for m in (strict, lax)]
    both = aggregate([score_pair(m, mask) for m in (strict, lax)])
    assert [s['maxFm'] for s in singles] == [1, 1]
    # Best common threshold: one map is perfect, the other marks 399 of 400 pixels (or one pixel alone).
    precision = 200 / 399
    assert both['maxFm'] == pytest.approx((1 + 1.3 * precision / (0.3 * precision + 1)) / 2)
    assert both['meanFm'] == pytest.approx(np.mean([s['meanFm'] for s in singles]))


def test_subset_of_metrics():
    score_map, mask = load('pair1')
    scores = summarize(score_pair(score_map, mask, ['HCE', 'maxFm', 'meanBIoU']))
    # maxFm brings the curve, and so its mean.
    assert list(scores) == ['maxFm', 'HCE', 'meanFm', 'maxBIoU', 'meanBIoU']
    assert aggregate([score_pair(score_map, mask, ['HCE'])], ['HCE']) == {'HCE': EXPECTED['pair1']['HCE']}
    with pytest.raises(ValueError, match='maxFm.*got F1'):
        score_pair(score_map, mask, ['F1'])


def test_boundary_measures_by_hand():
    mask = np.zeros((150, 150), bool)
    mask[50:100, 50:100] = True
    shifted = np.roll(mask, 1, axis=1)
    scores = summarize(score_pair(shifted * np.uint8(255), mask))
    # (150 + 150) / 300 = 1: all five bands have radius 1, two pixels wide: 4 * 50 - 4 inside, 4 * 50 outside.
    # Two columns of 50 pixels are wrong.
    assert scores['mBA'] == pytest.approx(1 - 100 / (196 + 200))
    # 2 % of the diagonal is 4 pixels: frames of 50^2 - 42^2 pixels; they share all but 50 + 2 * (42 - 0) - ...
    frame = np.zeros((150, 150), bool)
    frame[50:100, 50:100] = True
    frame[54:96, 54:96] = False
    overlap = (frame & np.roll(frame, 1, axis=1)).sum()
    assert scores['maxBIoU'] == pytest.approx(overlap / (2 * frame.sum() - overlap))


@pytest.mark.parametrize('value', [0, 77, 255])
def test_empty_and_full_masks(value):
    score_map = np.full((30, 40), value, np.uint8)
    empty = summarize(score_pair(score_map, np.zeros((30, 40), bool)))
    full = summarize(score_pair(score_map, np.ones((30, 40), bool)))
    assert np.isfinite([*empty.values(), *full.values()]).all()
    assert empty['Smeasure'] == pytest.approx(1 - value / 255)
    assert full['Smeasure'] == pytest.approx(value / 255)
    assert (empty['mBA'], full['mBA']) == (value <= 128, value > 128)  # no band: all pixels count
    assert (empty['maxFm'], empty['wFmeasure'], empty['maxBIoU']) == (0, 0, 0)
    assert full['maxFm'] == 1


def test_object_on_the_last_row_gives_no_nan():
    mask = np.zeros((20, 30), bool)
    mask[-1, 5:9] = True
    scores = summarize(score_pair(mask * np.uint8(255), mask))
    # Two quadrants have no pixels; the published code divides 0 by 0 there.
    assert scores['Smeasure'] == pytest.approx(1)


def test_rejects_what_does_not_fit():
    mask = np.zeros((4, 5), bool)
    with pytest.raises(ValueError, match=r'\(4, 4\) and \(4, 5\)'):
        score_pair(np.zeros((4, 4), np.uint8), mask)
    with pytest.raises(TypeError, match='uint8'):
        score_pair(np.zeros((4, 5), np.float32), mask)
    with pytest.raises(TypeError, match='bool'):
        score_pair(np.zeros((4, 5), np.uint8), mask.astype(np.uint8))
    with pytest.raises(ValueError, match='no image'):
        aggregate([])
