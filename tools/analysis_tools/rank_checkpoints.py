"""Rank the checkpoints of a work directory by one or more measures.

Scores are read from the log of the training; --evaluate validates checkpoints without scores. With several measures,
checkpoints are ordered by their mean rank. For MAE, MSE and HCE, lower is better.
"""

import argparse
import json
import os
from pathlib import Path

os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')  # see docs/en/notes/performance.md; read when torch is imported

from mmengine.runner import Runner

from mmbirefnet.evaluation.report import TableRow, find_checkpoints, is_measure, rank, read_logged_scores, to_markdown
from mmbirefnet.fileio.configs import ConfigOptions, check_options, read_config
from mmbirefnet.utils.console import escape_unprintable


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('work_dir', type=Path, help='work directory of a training')
    parser.add_argument(
        '--measures',
        '--metrics',
        nargs='+',
        default=['wFmeasure'],
        help='measures, such as HCE or DIS-VD/HCE (default: %(default)s)',
    )
    parser.add_argument('--evaluate', action='store_true', help='validate checkpoints without logged scores')
    parser.add_argument('--config', help='config for --evaluate (default: the one in the work directory)')
    parser.add_argument('--cfg-options', nargs='+', action=ConfigOptions, metavar='KEY=VALUE', help='for --evaluate')
    parser.add_argument('--top', type=int, help='print only the N best')
    return parser.parse_args()


def evaluate(checkpoints, args):
    """Validate checkpoints, and cache their scores in ``<work_dir>/validations.json``."""
    store = args.work_dir / 'validations.json'
    scores = {int(k): v for k, v in json.loads(store.read_text()).items()} if store.is_file() else {}
    wanted = {k: p for k, p in checkpoints.items() if not set(args.measures) <= set(scores.get(k, {}))}
    if not wanted:
        return scores
    cfg = read_config(config_of(args))
    check_options(cfg, args.cfg_options or {})
    cfg.merge_from_dict(args.cfg_options or {})
    cfg.work_dir = str(args.work_dir / 'validations')
    # Run a test: in a validation, the hooks of the config would save a best checkpoint.
    cfg.test_dataloader = cfg.val_dataloader
    cfg.test_evaluator = dict(type='mmbirefnet.DichotomousMetric', num_workers='auto')
    cfg.test_cfg = dict()
    runner = Runner.from_cfg(cfg)
    for step, path in wanted.items():
        runner.load_checkpoint(str(path))
        scores[step] = {key: float(value) for key, value in runner.test().items() if is_measure(key)}
        store.write_text(json.dumps(scores, indent=1))
    return scores


def config_of(args):
    if args.config:
        return args.config
    configs = sorted(args.work_dir.glob('*.py'))
    if len(configs) != 1:
        raise ValueError(f'{args.work_dir}: expected one config, found {len(configs)}. Fix: pass --config')
    return str(configs[0])


def main():
    escape_unprintable()
    args = parse_args()
    try:
        checkpoints = find_checkpoints(args.work_dir)
        logged = read_logged_scores(args.work_dir)
        scores = {step: logged.get(step, {}) for step in checkpoints}
        order = rank(scores, args.measures)
        if args.evaluate and len(order) < len(checkpoints):
            measured = evaluate({step: path for step, path in checkpoints.items() if step not in order}, args)
            scores = {step: {**scores[step], **measured.get(step, {})} for step in checkpoints}
            order = rank(scores, args.measures)
    except (FileNotFoundError, ValueError) as error:
        raise SystemExit(f'error: {error}') from None

    rows = [TableRow(str(place), checkpoints[step].name, scores[step]) for place, step in enumerate(order, 1)]
    print(to_markdown(rows[: args.top], args.measures, 'rank'))
    without = [path.name for step, path in checkpoints.items() if step not in order]
    if without:
        print(f'without scores on {", ".join(args.measures)} (see --evaluate): {", ".join(without)}')
    if not order:
        raise SystemExit(1)


if __name__ == '__main__':
    main()
