"""Compare the throughput of our metric and pysodmetrics on synthetic pairs, and check that the scores are equal."""

import argparse
import os
import statistics
import time
import warnings

os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')  # see docs/en/notes/performance.md; read when torch is imported

import cv2
import numpy as np
import py_sod_metrics
import torch
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from mmbirefnet.datasets.preparation.synthetic import make_sample
from mmbirefnet.evaluation import DichotomousMetric
from mmbirefnet.evaluation.scoring_pool import resolve_workers

TOLERANCE = 1e-6


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--pairs', type=int, default=8, help='number of pairs (default: %(default)s)')
    parser.add_argument('--size', type=int, nargs=2, default=(1500, 2500), metavar=('HEIGHT', 'WIDTH'))
    parser.add_argument('--rounds', type=int, default=3, help='alternating runs of each')
    parser.add_argument('--workers', default='auto', help="worker processes, or 'auto' (default)")
    args = parser.parse_args()
    if args.pairs < 1 or args.rounds < 1:
        parser.error('--pairs and --rounds: expected 1 or more')
    args.workers = resolve_workers(args.workers if args.workers == 'auto' else int(args.workers))
    return args


def make_pair(index, size):
    """A generated object and a prediction like that of a network at 1024x1024: soft edges, uncertain regions.

    Returns:
        uint8 (H, W) map and bool (H, W) mask.
    """
    mask = make_sample(0, 'benchmark', index, tuple(size)).mask
    rng = np.random.default_rng(index)
    side = 1024
    logits = 12 * (cv2.resize(mask, (side, side), interpolation=cv2.INTER_AREA).astype(np.float32) / 255 - 0.5)
    doubt = cv2.GaussianBlur(rng.standard_normal((64, 64), np.float32), (0, 0), 2)
    grain = cv2.GaussianBlur(rng.standard_normal((side, side), np.float32), (0, 0), 1.5)
    logits += 12 * cv2.resize(doubt, (side, side), interpolation=cv2.INTER_CUBIC) + 1.5 * grain
    probability = cv2.resize(1 / (1 + np.exp(-logits)), (size[1], size[0]))
    return (probability * 255).astype(np.uint8), mask > 128


def plain(pairs):
    """All measures of pysodmetrics, in a loop over the pairs."""
    measures = dict(
        fm=py_sod_metrics.Fmeasure(),
        em=py_sod_metrics.Emeasure(),
        sm=py_sod_metrics.Smeasure(),
        wfm=py_sod_metrics.WeightedFmeasure(),
        mae=py_sod_metrics.MAE(),
        hce=py_sod_metrics.HumanCorrectionEffortMeasure(),
    )
    for score_map, mask in pairs:
        for measure in measures.values():
            measure.step(score_map, mask * np.uint8(255))
    results = {name: measure.get_results()[name] for name, measure in measures.items()}
    fm, em = results['fm'], results['em']
    return dict(
        maxFm=fm['curve'].max(), meanFm=fm['curve'].mean(), adpFm=fm['adp'], maxEm=em['curve'].max(),
        meanEm=em['curve'].mean(), adpEm=em['adp'], Smeasure=results['sm'], wFmeasure=results['wfm'],
        MAE=results['mae'], HCE=results['hce'],
    )  # fmt: skip


def ours(samples, workers):
    """All measures of ``DichotomousMetric`` for the data samples, called as in a test loop."""
    metric = DichotomousMetric(stretch_hce=True, num_workers=workers)
    for sample in samples:
        metric.process(None, [sample])
    return metric.evaluate(len(samples))


def to_sample(index, score_map, mask):
    sample = SegDataSample(metainfo=dict(img_path=f'{index:06d}.jpg'))
    # The middle of each level, so that truncation returns the level.
    sample.seg_logits = PixelData(data=torch.from_numpy((score_map[None] + np.float32(0.5)) / 255).clamp(max=1))
    sample.gt_sem_seg = PixelData(data=torch.from_numpy(mask[None].astype(np.float32)))
    return sample.to_dict()


def main():
    args = parse_args()
    warnings.filterwarnings('ignore', module='py_sod_metrics')
    pairs = [make_pair(index, args.size) for index in range(args.pairs)]
    samples = [to_sample(index, *pair) for index, pair in enumerate(pairs)]
    print(f'{args.pairs} pairs of {args.size[1]}x{args.size[0]}, {args.workers} workers, {args.rounds} rounds')

    ways = {'pysodmetrics': lambda: plain(pairs), 'ours': lambda: ours(samples, args.workers)}
    seconds, scores = {name: [] for name in ways}, {}
    for _ in range(args.rounds):
        for name, score in ways.items():
            start = time.perf_counter()
            scores[name] = score()
            seconds[name].append(time.perf_counter() - start)
        expected = scores['pysodmetrics']
        difference = max(abs(scores['ours'][measure] - value) for measure, value in expected.items())
        if difference > TOLERANCE:
            raise SystemExit(f'the scores differ by {difference:.2g}: {scores}')

    for name, times in seconds.items():
        ratio = statistics.median(p / t for p, t in zip(seconds['pysodmetrics'], times, strict=True))
        speed = args.pairs / statistics.median(times)
        print(f'{name:16s}{speed:8.2f} pairs/s {ratio:8.1f} x   ({len(scores[name])} measures)')
    print(f'largest difference of the {len(expected)} common measures: {difference:.1g}')


if __name__ == '__main__':
    main()
