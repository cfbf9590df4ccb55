"""The metric in mmengine's evaluator: batches, several processes, several sets, output, errors."""

import json
import os
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.evaluator import Evaluator
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from mmbirefnet.datasets import DichotomousDataset
from mmbirefnet.evaluation import DichotomousMetric, scoring_pool
from mmbirefnet.evaluation.scoring_pool import ScoringPool, resolve_workers

GOLDEN = Path(__file__).parents[1] / 'data' / 'metrics'
EXPECTED = json.loads((GOLDEN / 'expected.json').read_text())
PAIRS = [f'pair{k}' for k in range(6)]


def make_sample(name, set_name='', with_mask=True):
    score_map = torch.from_numpy(cv2.imread(str(GOLDEN / 'pred' / f'{name}.png'), cv2.IMREAD_GRAYSCALE))
    mask = torch.from_numpy(cv2.imread(str(GOLDEN / 'gt' / f'{name}.png'), cv2.IMREAD_GRAYSCALE))
    meta = dict(img_path=f'im/{name}.jpg', seg_map_path=str(GOLDEN / 'gt' / f'{name}.png'), set_name=set_name)
    sample = SegDataSample(metainfo=meta)
    # The middle of each level: truncation gives it back.
    sample.seg_logits = PixelData(data=((score_map[None] + 0.5) / 255).clamp(max=1))
    if with_mask:
        sample.gt_sem_seg = PixelData(data=mask[None].float() / 255)
    return sample


def evaluate(samples, batch_size=1, **options):
    evaluator = Evaluator([dict(type='mmbirefnet.DichotomousMetric', **options)])
    for start in range(0, len(samples), batch_size):
        evaluator.process(samples[start : start + batch_size])
    return evaluator.evaluate(len(samples))


def assert_golden(scores, name='dataset_of_six_pairs'):
    assert set(scores) == set(EXPECTED[name])
    for metric, value in EXPECTED[name].items():
        assert scores[metric] == pytest.approx(value, abs=1e-6, rel=0), metric


@pytest.mark.parametrize(('batch_size', 'with_mask'), [(1, True), (4, True), (6, False)])
def test_golden_set_in_any_batches(batch_size, with_mask):
    assert_golden(evaluate([make_sample(name, with_mask=with_mask) for name in PAIRS], batch_size))


def test_hce_in_the_form_of_pysodmetrics():
    mask = torch.zeros(1, 40, 40)
    mask[:, 10:30, 10:30] = 1
    sample = SegDataSample(metainfo=dict(img_path='a.jpg'))
    sample.seg_logits, sample.gt_sem_seg = PixelData(data=mask / 4), PixelData(data=mask)
    assert evaluate([sample], measures=['HCE'])['HCE'] > 0
    assert evaluate([sample], measures=['HCE'], stretch_hce=True) == {'HCE': 0}


def flat_sample(level, path):
    """A prediction of one gray level for an empty mask: its mean absolute error is level / 255."""
    sample = SegDataSample(metainfo=dict(img_path=path))
    sample.seg_logits = PixelData(data=torch.full((1, 8, 8), (level + 0.5) / 255))  # truncated to the level
    sample.gt_sem_seg = PixelData(data=torch.zeros(1, 8, 8))
    return sample


@pytest.mark.parametrize(
    ('paths', 'size', 'expected'),
    [
        (['a', 'b', 'c', 'c'], 3, 0.4),  # (0.2 + 0.4 + 0.6) / 3, without the second 0.6
        (['a', 'b', 'c', 'a'], 3, 0.4),
        ([None, None, None, None], 3, 0.4),  # without paths, the first three are kept
        (['a', 'b', None, None], 3, 0.4),
        (['a', 'b', 'c', 'd'], 4, 0.45),  # (0.2 + 0.4 + 0.6 + 0.6) / 4
    ],
)
def test_padding_of_distributed_samplers_is_removed(monkeypatch, paths, size, expected):
    """Two processes share three images, so that the sampler repeats one; this process has gathered all results."""
    metric = DichotomousMetric(['MAE'], soft_masks=True)
    for level, path in zip((51, 102, 153, 51 if paths[3] == 'a' else 153), paths):
        metric.process(None, [flat_sample(level, path)])
    monkeypatch.setattr('mmengine.dist.get_world_size', lambda: 2)
    assert metric.evaluate(size)['MAE'] == pytest.approx(expected)


def test_images_that_no_process_scored_are_an_error(monkeypatch):
    metric = DichotomousMetric(['MAE'], soft_masks=True)
    for path in 'abb':
        metric.process(None, [flat_sample(51, path)])
    monkeypatch.setattr('mmengine.dist.get_world_size', lambda: 2)
    with pytest.raises(RuntimeError, match='the data set has 3 images, but 2 different ones were scored'):
        metric.evaluate(3)


@pytest.mark.parametrize('workers', [1, 2, 3])
def test_worker_processes_give_the_same(workers):
    samples = [make_sample(name) for name in PAIRS]
    assert evaluate(samples, num_workers=workers) == evaluate(samples)


def _rank(rank, ranks, folder):
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR='127.0.0.1', RANK=str(rank), WORLD_SIZE=str(ranks))
    torch.distributed.init_process_group('gloo', init_method=f'file://{folder}/store', rank=rank, world_size=ranks)
    # As samplers do: round robin, padded from the front, so that ranks have equally many; then one more batch on
    # rank 0, as samplers that do not pad have.
    names = (PAIRS + PAIRS[:ranks])[rank::ranks][: -(-len(PAIRS) // ranks) + (rank == 0)]
    metric = DichotomousMetric(collect_dir=f'{folder}/parts')
    for name in names:
        metric.process(None, [make_sample(name).to_dict()])
    Path(folder, f'{rank}.json').write_text(json.dumps(metric.evaluate(len(PAIRS))))


@pytest.mark.parametrize('ranks', [2, 3])
def test_several_ranks_give_the_same(ranks, tmp_path):
    torch.multiprocessing.start_processes(_rank, (ranks, str(tmp_path)), nprocs=ranks, start_method='fork')
    single = evaluate([make_sample(name) for name in PAIRS])
    for rank in range(ranks):
        assert json.loads((tmp_path / f'{rank}.json').read_text()) == single


def test_sets_are_scored_each_by_itself():
    samples = [make_sample(name, f'DIS-TE{1 + k // 2}') for k, name in enumerate(PAIRS)]
    means = {'DIS-TE(1-3)': ['DIS-TE1', 'DIS-TE2', 'DIS-TE3'], 'DIS-TE(1-4)': [f'DIS-TE{k}' for k in range(1, 5)]}
    scores = evaluate(samples, 3, means=means, measures=['maxFm', 'HCE'])
    alone = evaluate(samples[2:4], measures=['maxFm', 'HCE'])
    assert scores['DIS-TE2/HCE'] == alone['HCE'] == np.mean([EXPECTED['pair2']['HCE'], EXPECTED['pair3']['HCE']])
    assert scores['DIS-TE2/maxFm'] == alone['maxFm']
    rows = [scores[f'DIS-TE{k}/maxFm'] for k in (1, 2, 3)]
    assert scores['DIS-TE(1-3)/maxFm'] == pytest.approx(np.mean(rows))
    assert not any(key.startswith('DIS-TE(1-4)') for key in scores)  # DIS-TE4 is not there


def test_selected_metrics_and_prefix():
    scores = evaluate([make_sample('pair4')], measures=['MAE', 'maxFm'], prefix='val')
    assert list(scores) == ['val/maxFm', 'val/MAE']
    with pytest.raises(ValueError, match='got mIoU'):
        DichotomousMetric(measures=['mIoU'])


@pytest.mark.parametrize('workers', [0, 2])
def test_writes_maps(tmp_path, workers):
    samples = [make_sample(name) for name in PAIRS]
    # What test.py --out sets.
    assert_golden(evaluate(samples, output_dir=str(tmp_path / 'maps'), keep_results=True, num_workers=workers))
    assert sorted(p.name for p in (tmp_path / 'maps').iterdir()) == [f'{name}.png' for name in PAIRS]
    for name in PAIRS:
        written = cv2.imread(str(tmp_path / 'maps' / f'{name}.png'), cv2.IMREAD_UNCHANGED)
        given = cv2.imread(str(GOLDEN / 'pred' / f'{name}.png'), cv2.IMREAD_GRAYSCALE)
        assert written.dtype == np.uint8
        np.testing.assert_array_equal(written, given)


def test_format_only_needs_no_masks(tmp_path):
    sample = make_sample('pair0', with_mask=False)
    sample.set_metainfo(dict(seg_map_path=None))
    assert evaluate([sample], output_dir=str(tmp_path), format_only=True) == {}
    assert (tmp_path / 'pair0.png').is_file()
    with pytest.raises(ValueError, match='output_dir'):
        DichotomousMetric(format_only=True)


def test_maps_of_several_sets_do_not_overwrite_each_other(tmp_path):
    one, other = make_sample('pair0', 'A'), make_sample('pair0', 'B')
    other.set_metainfo(dict(img_path='B/pair0.jpg'))
    with pytest.raises(ValueError, match='pair0.jpg and B/pair0.jpg'):
        evaluate([one, other], output_dir=str(tmp_path))
    metric = DichotomousMetric(output_dir=str(tmp_path / 'maps'))
    metric.dataset_meta = dict(sets=['A', 'B'])
    metric.process(None, [one, other])
    scores = metric.evaluate(2)
    written = {path.relative_to(tmp_path).as_posix() for path in tmp_path.glob('maps/*/*')}
    assert written == {'maps/A/pair0.png', 'maps/B/pair0.png'}
    assert set(scores) == {f'{s}/{m}' for s in 'AB' for m in metric.measures}


def test_errors_name_the_image(tmp_path):
    sample = make_sample('pair0')
    sample.seg_logits = PixelData(data=sample.seg_logits.data * 8 - 4)
    with pytest.raises(ValueError, match=r'im/pair0.jpg: .*probabilities in \[0, 1\]'):
        evaluate([sample])
    for workers in (0, 1):
        sample = make_sample('pair0')
        sample.seg_logits = PixelData(data=sample.seg_logits.data[:, :100])
        with pytest.raises(ValueError, match='im/pair0.jpg: .*one shape'):
            evaluate([sample], num_workers=workers)
    sample = make_sample('pair0')
    sample.gt_sem_seg = PixelData(data=(sample.gt_sem_seg.data * 255).long())
    with pytest.raises(ValueError, match='im/pair0.jpg: gt_sem_seg.*up to 255'):
        evaluate([sample])
    sample = make_sample('pair0', with_mask=False)
    sample.set_metainfo(dict(seg_map_path=str(tmp_path / 'none.png')))
    with pytest.raises(OSError, match='none.png'):
        evaluate([sample])


def test_pool_bounds_what_waits_and_keeps_order():
    pool = ScoringPool(divmod, 1)
    for k in range(20):
        pool.submit(k, 7)
        assert len(pool.pending) <= scoring_pool.WAITING_PER_WORKER
    assert pool.finish() == [divmod(k, 7) for k in range(20)]
    pool.submit(1, 7)  # a second round
    assert pool.finish() == [(0, 1)]


def test_pool_reports_a_worker_that_died():
    pool = ScoringPool(os._exit, 1)
    pool.submit(1, name='im/1.png')
    pool.submit(2, name='im/2.png')
    with pytest.raises(RuntimeError, match=r'worker died that scored im/1.png, most .* num_workers'):
        pool.finish()


def test_pool_stops_a_worker_that_hangs():
    pool = ScoringPool(time.sleep, 1, timeout=0.5)
    pool.submit(0, name='im/1.png')
    pool.submit(600, name='im/2.png')
    start = time.monotonic()
    with pytest.raises(RuntimeError, match=r'im/2.png: scoring takes longer than 0.5 s and was stopped. Fix: '):
        pool.finish()
    assert time.monotonic() - start < 60
    pool.submit(0)  # new processes
    assert pool.finish() == [None, None]  # that of the first image too


def test_negative_timeout_is_rejected():
    with pytest.raises(ValueError, match='timeout=-1'):
        DichotomousMetric(timeout=-1)


def test_number_of_workers(monkeypatch):
    monkeypatch.setattr(os, 'sched_getaffinity', lambda _: range(12), raising=False)
    monkeypatch.setenv('LOCAL_WORLD_SIZE', '3')
    assert resolve_workers('auto') == 4
    monkeypatch.setenv('LOCAL_WORLD_SIZE', '24')
    assert resolve_workers('auto') == 1
    with pytest.raises(ValueError, match='-1'):
        resolve_workers(-1)


@pytest.mark.parametrize('sets', [1, 2])
def test_subfolders_are_kept(tmp_path, sets):
    """File names may repeat in the sub-folders of a set."""
    for name in ('A', 'B')[:sets]:
        for folder in ('x', 'y/z'):
            for kind in ('im', 'gt'):
                (tmp_path / name / kind / folder).mkdir(parents=True)
                pixels = np.full((8, 8), 255 * (folder == 'x'), np.uint8)
                cv2.imwrite(str(tmp_path / name / kind / folder / 'same.png'), pixels)
    pipeline = [dict(type=f'mmbirefnet.{step}') for step in ('LoadImage', 'LoadMask', 'PackDichotomousInputs')]
    data = DichotomousDataset(data_root=str(tmp_path), sets=['A', 'B'][:sets], pipeline=pipeline, test_mode=True)
    options = dict(measures=['MAE'], output_dir=str(tmp_path / 'maps'))
    evaluator = Evaluator([dict(type='mmbirefnet.DichotomousMetric', **options)])
    evaluator.dataset_meta = data.metainfo
    for item in data:
        sample = item['data_samples']
        sample.seg_logits = PixelData(data=sample.gt_sem_seg.data * 0.5)
        evaluator.process([sample])
    evaluator.evaluate(len(data))
    written = {path.relative_to(tmp_path / 'maps').as_posix() for path in (tmp_path / 'maps').rglob('*.png')}
    prefixes = ['A/', 'B/'] if sets == 2 else ['']
    assert written == {f'{prefix}{name}/same.png' for prefix in prefixes for name in ('x', 'y/z')}
    for prefix in prefixes:
        assert cv2.imread(str(tmp_path / 'maps' / f'{prefix}x/same.png'), 0).max() == 127
        assert cv2.imread(str(tmp_path / 'maps' / f'{prefix}y/z/same.png'), 0).max() == 0


@pytest.mark.parametrize('prefix', [None, 'val'])
@pytest.mark.parametrize('sets', [('A',), ('DIS-TE1', 'DIS-TE2', 'DIS-TE3', 'DIS-TE4'), ('A', 'B')])
def test_result_keys_equal_the_evaluated_keys(sets, prefix):
    evaluator = Evaluator([dict(type='mmbirefnet.DichotomousMetric', measures=['MAE', 'MSE'], prefix=prefix)])
    evaluator.dataset_meta = dict(sets=sets)
    for name in sets:
        evaluator.process([make_sample('pair0', set_name=name)])
    assert set(evaluator.evaluate(len(sets))) == set(evaluator.metrics[0].result_keys(sets))


def test_names_that_are_not_utf8(tmp_path):
    sample = make_sample('pair0')
    sample.set_metainfo(dict(img_path=os.fsdecode(b'im/caf\xe9.jpg')))
    evaluate([sample], measures=['MAE'], output_dir=str(tmp_path))
    assert os.listdir(os.fsencode(tmp_path)) == [b'caf\xe9.png']
