"""The measures of mattes, against slow forms written from the definitions of Rhemann et al. (CVPR 2009)."""

import csv
import math
import runpy
from collections import deque
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from mmbirefnet.evaluation import DichotomousMetric, score_pair
from mmbirefnet.evaluation.map_files import unknown_region
from mmbirefnet.evaluation.scoring import check_measures

MATTE = ('SAD', 'Grad', 'Conn')
TRIMAP = ('SAD-T', 'MSE-T', 'Grad-T', 'Conn-T')


def direct_gradient(matte):
    """|gradient| by direct sums over the derivatives of a Gaussian of sigma 1.4, edges continued."""
    sigma = 1.4
    radius = math.ceil(sigma * math.sqrt(-2 * math.log(math.sqrt(2 * math.pi) * sigma * 0.01)))

    def gaussian(t):
        return math.exp(-t * t / (2 * sigma**2)) / (sigma * math.sqrt(2 * math.pi))

    offsets = [(dy, dx) for dy in range(-radius, radius + 1) for dx in range(-radius, radius + 1)]
    weights = {(dy, dx): -dx * gaussian(dx) / sigma**2 * gaussian(dy) for dy, dx in offsets}
    norm = math.sqrt(sum(weight**2 for weight in weights.values()))
    height, width = matte.shape
    result = np.zeros(matte.shape)
    for y in range(height):
        for x in range(width):
            gx = gy = 0.0
            for dy, dx in offsets:
                value = matte[min(max(y + dy, 0), height - 1), min(max(x + dx, 0), width - 1)]
                gx += weights[dy, dx] / norm * value
                gy += weights[dx, dy] / norm * value
            result[y, x] = math.hypot(gx, gy)
    return result


def largest_region(mask):
    """The pixels of the largest 4-connected region, by flooding."""
    best, seen = set(), set()
    for start in map(tuple, np.argwhere(mask)):
        if start in seen:
            continue
        region, queue = {start}, deque([start])
        while queue:
            y, x = queue.popleft()
            for near in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                inside = 0 <= near[0] < mask.shape[0] and 0 <= near[1] < mask.shape[1]
                if inside and mask[near] and near not in region:
                    region.add(near)
                    queue.append(near)
        seen |= region
        best = max(best, region, key=len)
    return best


def direct_connectivity(levels, true_levels, top):
    """Differences of connectivity; whole numbers of 1 / top, so that no threshold is a question of rounding."""
    regions = [largest_region((levels * 10 >= k * top) & (true_levels * 10 >= k * top)) for k in range(1, 11)]
    result = np.zeros(levels.shape)
    for pixel in np.ndindex(levels.shape):
        level = next((k for k, region in enumerate(regions) if pixel not in region), 10)
        degrees = []
        for value in (levels[pixel], true_levels[pixel]):
            distance = value / top - level / 10
            degrees.append(1 - (distance if distance >= 0.15 else 0))
        result[pixel] = abs(degrees[0] - degrees[1])
    return result


def mattes(seed):
    """Two soft blobs of 8 bits with a loose island, (34, 41)."""
    rng = np.random.default_rng(seed)
    yy, xx = np.mgrid[:34, :41]
    truth = 1 / (1 + np.exp((np.hypot(yy - 15, xx - 17) - 9) / 1.5)) + (np.hypot(yy - 28, xx - 35) < 4) * 0.7
    guess = truth * 0.9 + 0.25 * cv2.GaussianBlur(rng.standard_normal((34, 41)), (0, 0), 2)
    return tuple((matte.clip(0, 1) * 255).astype(np.uint8) for matte in (guess, truth))


@pytest.mark.parametrize('seed', range(4))
def test_scores_equal_the_definitions(seed):
    guess, truth = mattes(seed)
    alpha = truth / np.float32(255)
    unknown = np.zeros(truth.shape, bool)
    unknown[5:25, 8:30] = True
    scores = score_pair(guess, truth > 128, [*MATTE, *TRIMAP], alpha, unknown=unknown)

    difference = guess / 255.0 - truth / 255.0
    errors = {
        'SAD': np.abs(difference),
        'Grad': np.square(direct_gradient(guess / 255.0) - direct_gradient(truth / 255.0)),
        'Conn': direct_connectivity(guess.astype(int), truth.astype(int), 255),
    }
    for name, error in errors.items():
        assert error.sum() > 1, name
        assert scores[name] == pytest.approx(error.sum() / 1000, rel=1e-5), name
        assert scores[f'{name}-T'] == pytest.approx(error[unknown].sum() / 1000, rel=1e-5), name
    assert scores['MSE-T'] == pytest.approx(np.square(difference[unknown]).mean(), rel=1e-5)


def test_step_by_hand():
    """A column step at x = 3 of 8: SAD and Grad of a map of zeros."""
    truth = np.zeros((5, 8), np.float32)
    truth[:, 3:] = 1
    scores = score_pair(np.zeros((5, 8), np.uint8), truth > 0.5, ['SAD', 'Grad', 'Conn'], truth)
    assert scores['SAD'] == pytest.approx(0.025)
    # Nothing is connected at level 0.1, since the map is 0: the degree is 1 for the map and 0 for 25 true pixels.
    assert scores['Conn'] == pytest.approx(0.025)
    derivative = [t * math.exp(-(t**2) / 3.92) for t in range(-4, 5)]
    norm = math.sqrt(sum(d * d for d in derivative))
    smooth = [math.exp(-(t**2) / 3.92) for t in range(-4, 5)]
    gain = sum(smooth) / math.sqrt(sum(s * s for s in smooth))
    expected = sum(
        5
        * (gain / norm * sum(d for t, d in zip(range(-4, 5), derivative, strict=True) if min(max(x + t, 0), 7) >= 3))
        ** 2
        for x in range(8)
    )
    assert scores['Grad'] == pytest.approx(expected / 1000, rel=1e-5)


def test_perfect_matte_has_no_error():
    guess, _ = mattes(0)
    unknown = np.ones(guess.shape, bool)
    scores = score_pair(guess, guess > 128, [*MATTE, *TRIMAP], guess / np.float32(255), unknown=unknown)
    assert max(scores.values()) < 1e-6


def test_unknown_region_by_pixels():
    """The soft column and two pixels on each side; the image's edge is no edge of the object."""
    alpha = np.zeros((6, 12), np.float32)
    alpha[:, 6:] = 1
    hard = unknown_region(alpha, 2)
    assert [set(np.flatnonzero(row)) for row in hard] == [{4, 5, 6, 7}] * 6
    alpha[:, 5] = 0.5
    assert [set(np.flatnonzero(row)) for row in unknown_region(alpha, 2)] == [{3, 4, 5, 6, 7}] * 6
    assert not unknown_region(np.ones((6, 6), np.float32), 2).any()


def test_what_is_computed_by_default():
    assert not {*MATTE, *TRIMAP} & {*check_measures(None)}
    assert {*check_measures(None, soft_masks=True)} - {*check_measures(None)} == {*MATTE}
    assert {*check_measures(None, True, True)} - {*check_measures(None, True)} == {*TRIMAP}
    with pytest.raises(ValueError, match='SAD-T need trimaps'):
        DichotomousMetric(measures=['SAD-T', 'MAE'])
    for trimap in (0, '', 2.5):
        with pytest.raises(ValueError, match='folder, or pixels'):
            DichotomousMetric(trimap=trimap)


@pytest.fixture
def matting_set(tmp_path):
    """Two images with soft masks, trimaps in a folder beside them, and maps."""
    for index, (stem, suffix) in enumerate([('a', 'png'), ('sub/b', 'bmp')]):
        guess, truth = mattes(index)
        trimap = np.full(truth.shape, 128, np.uint8)
        trimap[:, :8], trimap[:, 30:] = 0, 255
        for folder, image, ending in (('gt', truth, 'png'), ('maps', guess, 'png'), ('trimap', trimap, suffix)):
            path = tmp_path / ('' if folder == 'maps' else 'set') / folder / f'{stem}.{ending}'
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), image)
    return tmp_path


def expected_of_set(trimap):
    rows = []
    for index in range(2):
        guess, truth = mattes(index)
        alpha = truth / np.float32(255)
        unknown = np.zeros(truth.shape, bool)
        unknown[:, 8:30] = True
        unknown = unknown if trimap == 'trimap' else unknown_region(alpha, trimap)
        rows.append(score_pair(guess, truth > 128, [*MATTE, 'MSE', *TRIMAP], alpha, unknown=unknown))
    return {name: np.mean([row[name] for row in rows]) for name in rows[0]}


@pytest.mark.parametrize('trimap', ['trimap', 3])
@pytest.mark.parametrize('workers', [0, 1])
def test_metric_reads_trimaps(matting_set, trimap, workers):
    metric = DichotomousMetric(soft_masks=True, trimap=trimap, num_workers=workers)
    for index, stem in enumerate(['a', 'sub/b']):
        guess, truth = mattes(index)
        sample = SegDataSample(
            metainfo=dict(
                img_path=f'im/{stem}.jpg', seg_map_path=str(matting_set / 'set' / 'gt' / f'{stem}.png'), stem=stem
            )
        )
        sample.seg_logits = PixelData(data=torch.from_numpy((guess[None] + 0.5) / 255).float().clamp(max=1))
        sample.gt_sem_seg = PixelData(data=torch.from_numpy(truth[None] / np.float32(255)))
        metric.process(None, [sample])
    scores = metric.evaluate(2)
    assert list(scores)[-7:] == [*MATTE, *TRIMAP]
    for name, value in expected_of_set(trimap).items():
        assert scores[name] == pytest.approx(value, rel=1e-6), name


@pytest.mark.parametrize('trimap', ['trimap', 3])
def test_saved_maps(matting_set, trimap, monkeypatch):
    out = matting_set / 'out'
    words = ['--gt', matting_set / 'set', '--pred', matting_set / 'maps', '--out', out, '--task', 'Matting']
    words += ['--soft-masks', '--trimap', trimap, '--workers', 0, '--worst', 0]
    monkeypatch.setattr('sys.argv', ['eval_maps', *map(str, words)])
    tool = runpy.run_path(str(Path(__file__).parents[2] / 'tools/analysis_tools/eval_maps.py'))['main']
    tool()
    with open(out / 'table.csv', newline='') as file:
        (row,) = csv.DictReader(file)
    assert list(row)[2:11] == ['SAD', 'MSE', 'MAE', 'Grad', 'Conn', *TRIMAP]
    for name, value in expected_of_set(trimap).items():
        assert float(row[name]) == pytest.approx(value, rel=1e-6), name

    for path in (matting_set / 'set').glob('trimap/a.*'):
        path.unlink()
    if trimap == 'trimap':
        with pytest.raises(SystemExit, match=r'a\.png: no trimap at .*trimap/a\.png'):
            tool()


def test_trimap_of_another_size(matting_set):
    with pytest.raises(ValueError, match=r'a\.png: mask and trimap must have one size, got 10x10 and 41x34'):
        unknown_region(np.zeros((10, 10), np.float32), matting_set / 'set' / 'trimap' / 'a.png')
