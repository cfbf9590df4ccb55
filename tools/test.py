"""Test a model: ``python tools/test.py CONFIG CHECKPOINT [options]``."""

import argparse
import inspect
import os
import sys
from pathlib import Path

os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')  # see docs/en/notes/performance.md; read when torch is imported

from mmengine.config import Config
from mmengine.registry import METRICS
from torch.distributed.elastic.multiprocessing.errors import record

from mmbirefnet.apis.job import Share
from mmbirefnet.engine.launch import add_common_arguments, is_fsdp, load_config, runner_of
from mmbirefnet.engine.resume.predictions import begin_predictions, describe_predictions, resume_predictions
from mmbirefnet.utils.console import escape_unprintable


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Test a model')
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file, name of a released model, Hugging Face id or URL')
    parser.add_argument(
        '--out', metavar='DIR', help='write predictions to this folder, as 8-bit PNG at the original size'
    )
    parser.add_argument(
        '--resume',
        action='store_true',
        help='continue an interrupted test: score the predictions that it wrote to --out, and predict the rest',
    )
    parser.add_argument('--show', action='store_true', help='show the predictions in a window')
    parser.add_argument('--show-dir', metavar='DIR', help='write figures of the predictions to DIR')
    parser.add_argument(
        '--wait-time',
        type=float,
        default=2,
        help='seconds for which --show displays each prediction (default: %(default)s)',
    )
    parser.add_argument('--tta', action='store_true', help='use the test-time augmentation of the config')
    parser.add_argument('--no-fuse', action='store_true', help='do not fuse layers of the model')
    add_common_arguments(parser)
    return parser.parse_args()


def enable_visualization(cfg: Config, args: argparse.Namespace) -> None:
    """Configure the visualization hook to draw every prediction."""
    hook = cfg.get('default_hooks', {}).get('visualization')
    if hook is None:
        raise SystemExit("error: --show and --show-dir need default_hooks.visualization (a 'VisualizationHook')")
    hook.draw = True
    if args.show:
        hook.show = True
        hook.wait_time = args.wait_time
    if args.show_dir:
        cfg.visualizer.save_dir = args.show_dir


def enable_tta(cfg: Config) -> None:
    """Wrap the model and the pipeline in ``tta_model`` and ``tta_pipeline`` of the config."""
    missing = [key for key in ('tta_model', 'tta_pipeline') if key not in cfg]
    if missing or 'pipeline' not in cfg.test_dataloader.dataset:
        raise SystemExit(f'error: --tta needs {", ".join(missing) or "a pipeline in test_dataloader.dataset"}')
    cfg.test_dataloader.dataset.pipeline = cfg.tta_pipeline
    cfg.tta_model.module = cfg.model
    cfg.model = cfg.tta_model


def write_maps(cfg: Config, folder: str) -> None:
    """Configure the evaluator, or the first metric that supports it, to write predictions to ``folder``."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SystemExit(f'error: --out {folder}: {error.strerror}') from error
    evaluator = cfg.test_evaluator
    if isinstance(evaluator, dict):
        evaluator.update(output_dir=folder, keep_results=True)
        return
    with METRICS.switch_scope_and_registry(cfg.get('default_scope')) as registry:
        for metric in evaluator:
            if 'output_dir' in inspect.signature(registry.get(metric['type'])).parameters:
                metric['output_dir'] = folder
                return
    raise SystemExit(
        'error: --out needs a metric with the argument output_dir, for example mmbirefnet.DichotomousMetric'
    )


def resume_maps(cfg: Config, args: argparse.Namespace) -> None:
    """Record which test writes predictions to ``--out``; with ``--resume``, continue the recorded test."""
    folder = Path(args.out)
    facts = describe_predictions(cfg, args.checkpoint, tta=args.tta, fuse=not args.no_fuse)
    began = None
    if args.resume:
        try:
            began = resume_predictions(folder, facts)
        except ValueError as error:
            raise SystemExit(f'error: --resume: {error}') from error
        # Without a record, the predictions may come from another test, so all images are predicted.
        newer_than = sys.maxsize if began is None else began
        cfg.test_cfg = dict(type='mmbirefnet.ResumableTestLoop', newer_than=newer_than)
    if began is None and Share.from_environment().rank == 0:
        begin_predictions(folder, facts)


@record  # torchrun then reports which rank failed, and why
def main() -> None:
    escape_unprintable()
    args = parse_args()
    cfg = load_config(args)
    cfg.load_from = args.checkpoint
    if is_fsdp(cfg):  # its checkpoint is complete, and testing does not shard
        cfg.pop('runner_type')
        cfg.pop('strategy')
    if args.show or args.show_dir:
        enable_visualization(cfg, args)
    if args.tta:
        enable_tta(cfg)
    if args.resume and not args.out:
        raise SystemExit('error: --resume needs --out, the folder of the predictions')
    if args.out:
        write_maps(cfg, args.out)
        resume_maps(cfg, args)
    hooks = ['PretrainedCheckpointHook'] if args.no_fuse else ['PretrainedCheckpointHook', 'FuseHook']
    cfg.custom_hooks = [*cfg.get('custom_hooks', []), *(dict(type=f'mmbirefnet.{hook}') for hook in hooks)]
    with runner_of(cfg) as runner:
        runner.test()


if __name__ == '__main__':
    main()
