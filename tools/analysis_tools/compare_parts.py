"""Train a small BiRefNet with and without each of its parts, and other heads on the same backbone.

It trains on the synthetic data set of ``make demo``. The parts are those of configs/birefnet_ablation; the other heads
are mmsegmentation's, with about as many parameters. Data, losses, schedule and number of iterations are the same. Each
run writes its scores to WORK_DIR/<model>_seed<N>.json, and is skipped if that file exists. The output is a Markdown
table with mean and standard deviation over the seeds.
"""

import argparse
import json
import os
import runpy
import statistics
from pathlib import Path

os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')  # see docs/en/notes/performance.md; read when torch is imported

from mmengine.config import Config

from mmbirefnet.engine.launch import DATA_ROOT_VARIABLE, runner_of
from mmbirefnet.evaluation.functional.registry import MEASURES
from mmbirefnet.fileio.atomic import replacing
from mmbirefnet.fileio.configs import read_config
from mmbirefnet.utils.console import escape_unprintable

CONFIGS = Path(__file__).parents[2] / 'configs'
BASE = CONFIGS / 'birefnet_synthetic' / 'birefnet_swin-nano_1xb4-6e_synthetic-256x256.py'
ABLATIONS = {
    path.name.split('_')[0].removeprefix('birefnet-'): path
    for path in sorted((CONFIGS / 'birefnet_ablation').glob('*.py'))
}
# The channels give each whole model 7.1 million parameters, as many as the small BiRefNet.
HEADS = {
    'FCN': dict(type='FCNHead', in_channels=256, in_index=3, channels=612, num_convs=2, concat_input=False),
    'SegFormer': dict(type='SegformerHead', in_channels=[32, 64, 128, 256], in_index=[0, 1, 2, 3], channels=1032),
    'UPerNet': dict(
        type='UPerHead', in_channels=[32, 64, 128, 256], in_index=[0, 1, 2, 3], pool_scales=(1, 2, 3, 6), channels=204
    ),
}
MODELS = ['BiRefNet', *ABLATIONS, *HEADS]


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('data', type=Path, help='data set written by tools/dataset_converters/make_synthetic_dis.py')
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/compare_parts'), help='(default: %(default)s)')
    parser.add_argument('--models', nargs='+', choices=MODELS, default=MODELS, metavar='MODEL', help=', '.join(MODELS))
    parser.add_argument('--seeds', type=int, default=3, help='number of runs of each model (default: %(default)s)')
    parser.add_argument('--size', type=int, default=128, help='side of the images in pixels (default: %(default)s)')
    parser.add_argument('--epochs', type=int, default=4, help='epochs of 40 iterations (default: %(default)s)')
    parser.add_argument(
        '--measures', nargs='+', default=['maxFm', 'wFmeasure', 'MAE', 'Smeasure', 'HCE'], help='(default: %(default)s)'
    )
    return parser.parse_args()


def make_config(model: str, args: argparse.Namespace, seed: int) -> Config:
    """The config of one run."""
    cfg = read_config(BASE)
    if model in ABLATIONS:
        cfg.merge_from_dict({'model': runpy.run_path(str(ABLATIONS[model]))['model']})
    elif model in HEADS:
        head = dict(num_classes=2, out_channels=1, threshold=0.5, norm_cfg=dict(type='BN'), align_corners=False)
        cfg.model = dict(
            type='mmseg.EncoderDecoder',
            data_preprocessor=cfg.model.data_preprocessor,
            backbone=cfg.model.backbone,
            decode_head=dict(**HEADS[model], **head, loss_decode=cfg.model.decode_head.loss_decode),
            test_cfg=dict(mode='whole'),
        )
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.num_workers, loader.persistent_workers = 0, False
        for transform in loader.dataset.pipeline:
            if transform.type == 'mmbirefnet.Resize':
                transform.scale = (args.size, args.size)
    iterations = 40 * args.epochs
    cfg.train_cfg.update(max_epochs=args.epochs, val_interval=args.epochs)
    cfg.param_scheduler[1].T_max = iterations - 20
    cfg.default_hooks.checkpoint = None
    cfg.val_evaluator.measures = args.measures
    cfg.randomness = dict(seed=seed)
    cfg.work_dir = str(args.work_dir / f'{model}_seed{seed}')
    cfg.launcher = 'none'
    return cfg


def run(model: str, args: argparse.Namespace, seed: int) -> dict[str, float]:
    """Train and validate one model; returns its scores and number of parameters."""
    with runner_of(make_config(model, args, seed)) as runner:
        runner.train()  # validates after the last epoch
    scores = {name: float(runner.message_hub.get_scalar(f'val/{name}').current()) for name in args.measures}
    return {'parameters': sum(parameter.numel() for parameter in runner.model.parameters()), **scores}


def to_table(results: dict[str, list[dict[str, float]]], measures: list[str]) -> str:
    """Format a Markdown table with one model per line, and mean ± standard deviation of each measure."""
    heads = [f'{name} {"↓" if MEASURES[name].lower_is_better else "↑"}' for name in measures]
    lines = ['| model | parameters | ' + ' | '.join(heads) + ' |', '| --- | ---: |' + ' ---: |' * len(heads)]
    for model, runs in results.items():
        cells = []
        for name in measures:
            values = [scores[name] for scores in runs]
            digits = MEASURES[name].digits
            spread = f' ± {statistics.stdev(values):.{digits}f}' if len(values) > 1 else ''
            cells.append(f'{statistics.mean(values):.{digits}f}{spread}')
        name = f'without: {model[3:]}' if model.startswith('no-') else model
        lines.append(f'| {name} | {runs[0]["parameters"] / 1e6:.2f} M | ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines)


def main() -> None:
    escape_unprintable()
    args = parse_args()
    os.environ[DATA_ROOT_VARIABLE] = str(args.data)
    results = {}
    for seed in range(args.seeds):
        for model in args.models:
            path = args.work_dir / f'{model}_seed{seed}.json'
            if not path.exists():
                scores = run(model, args, seed)
                with replacing(path) as temporary:
                    temporary.write_text(json.dumps(scores))
            results.setdefault(model, []).append(json.loads(path.read_text()))
    print(to_table(results, args.measures))


if __name__ == '__main__':
    main()
