"""Compare fine-tuning recipes on a shifted domain: scores on new and old images, and cost.

The nano model of "make demo" was trained on generated objects with pale backgrounds. Each recipe fine-tunes it, in a
separate process, on inverted images with another seed. Each result is tested on held-out images of both kinds.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')  # see docs/en/notes/performance.md; read when torch is imported

import cv2

ROOT = Path(__file__).resolve().parents[2]
PRETRAINING = ROOT / 'configs/birefnet_synthetic/birefnet_swin-nano_1xb4-6e_synthetic-256x256.py'
FINETUNING = ROOT / 'configs/birefnet_synthetic/birefnet_swin-nano_1xb4-3e_finetune-256x256.py'
OLD_DATA = '+old_data'  # suffix of a recipe: mix in old data
RECIPES = ['full', 'frozen_backbone', 'layerwise', 'lora', 'frozen_batchnorm', f'full{OLD_DATA}', 'few_images']


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        'out', type=Path, metavar='OUT', help='folder for data, runs and the table; existing results are reused'
    )
    parser.add_argument(
        '--old',
        type=Path,
        metavar='DIR',
        help='synthetic data set to pretrain on (default: generate 160 and 40 images)',
    )
    parser.add_argument('--checkpoint', type=Path, help='model pretrained on --old (default: train it)')
    parser.add_argument('--recipes', nargs='+', default=RECIPES, metavar='NAME', help=f'default: {" ".join(RECIPES)}')
    parser.add_argument('--images', type=int, default=64, help='training images (default: %(default)s)')
    parser.add_argument('--test-images', type=int, default=24, help='test images of each kind (default: %(default)s)')
    parser.add_argument('--epochs', type=int, default=3, help='epochs of each run (default: %(default)s)')
    parser.add_argument('--one', help=argparse.SUPPRESS)
    return parser.parse_args()


def run(*command: object) -> None:
    subprocess.run([sys.executable, *map(str, command)], check=True)


def make_old(args: argparse.Namespace) -> None:
    if args.old is None:
        args.old = args.out / 'old'
        if not args.old.is_dir():
            run(ROOT / 'tools/dataset_converters/make_synthetic_dis.py', args.old, '--dis-tr', 160, '--dis-vd', 40)
    if args.checkpoint is None:
        args.checkpoint = args.out / 'pretraining/epoch_6.pth'
        if not args.checkpoint.is_file():
            options = ['--work-dir', args.out / 'pretraining', '--cfg-options', f'data_root={args.old}']
            run(ROOT / 'tools/train.py', PRETRAINING, *options)


def make_shifted(args: argparse.Namespace) -> Path:
    """Generate inverted images with another seed."""
    folder = args.out / f'shifted-{args.images}-{args.test_images}'
    if not folder.is_dir():
        size = ['--dis-tr', args.images, '--dis-vd', args.test_images, '--size', 384, '--seed', 1]
        partial = folder.with_suffix('.partial')
        run(ROOT / 'tools/dataset_converters/make_synthetic_dis.py', partial, *size)
        for path in partial.glob('*/im/*'):
            cv2.imwrite(str(path), 255 - cv2.imread(str(path)))
        partial.rename(folder)
    return folder


def train_one(args: argparse.Namespace) -> None:
    """Fine-tune with one recipe, and write a row of the table."""
    from mmbirefnet.engine.finetune import finetune, score
    from mmbirefnet.fileio.configs import read_config

    shifted, folder = make_shifted(args), args.out / f'{args.one}-{args.images}'
    mixes = args.one.endswith(OLD_DATA)
    result = finetune(
        shifted / 'DIS-TR',
        folder,
        str(args.checkpoint),
        args.one.removesuffix(OLD_DATA),
        config=FINETUNING,
        val=shifted / 'DIS-VD',
        old_data=args.old / 'DIS-TR' if mixes else None,
        epochs=args.epochs,
        options={'train_cfg.val_interval': args.epochs},
    )
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    row = dict(
        recipe=args.one,
        start=result.before,
        after=result.after,
        minutes=sum(usage.ru_utime + usage.ru_stime for usage in (own, children)) / 60,
        gib=own.ru_maxrss / 2**20,
        parameters=result.trained_parameters,
    )
    cfg = read_config(PRETRAINING)
    cfg.test_dataloader.dataset.update(data_root=str(args.old), sets='DIS-VD', indices=args.test_images)
    row['old'] = score(cfg, result.weights, folder / 'old')
    if not (args.out / 'start.json').exists():
        start = score(cfg, str(args.checkpoint), folder / 'old_start')
        (args.out / 'start.json').write_text(json.dumps(start))
    (folder / 'row.json').write_text(json.dumps(row, indent=1))


def table(args: argparse.Namespace) -> str:
    """Markdown table of all available rows."""
    old_start = json.loads((args.out / 'start.json').read_text())['wFmeasure']
    lines = [
        '| recipe | images | new: start | new: after | old: start | old: after | CPU minutes | peak GiB | trained |',
        '|---|---:|---:|---:|---:|---:|---:|---:|---:|',
    ]
    for recipe in args.recipes:
        row = json.loads((args.out / f'{recipe}-{args.images}' / 'row.json').read_text())
        numbers = row['start']['wFmeasure'], row['after']['wFmeasure'], old_start, row['old']['wFmeasure']
        lines.append(
            f'| {recipe.replace("+", " + ")} | {args.images} | {" | ".join(f"{number:.3f}" for number in numbers)} '
            f'| {row["minutes"]:.1f} | {row["gib"]:.2f} | {row["parameters"]:,} |'
        )
    return '\n'.join(lines) + '\n'


def main():
    args = parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.one:
        train_one(args)
        return
    make_old(args)
    make_shifted(args)
    for recipe in args.recipes:
        if not (args.out / f'{recipe}-{args.images}' / 'row.json').exists():
            given = ['--old', args.old, '--checkpoint', args.checkpoint, '--images', args.images]
            run(__file__, args.out, '--one', recipe, *given, '--test-images', args.test_images, '--epochs', args.epochs)
    text = table(args)
    (args.out / f'table-{args.images}.md').write_text(text, encoding='utf-8')
    print(text)


if __name__ == '__main__':
    main()
