"""``mmbirefnet finetune``: fine-tune a model on your own images and masks."""

from __future__ import annotations

import argparse

from mmbirefnet.fileio.configs import ConfigOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        'data',
        metavar='DATA',
        help='folder with im/ and gt/, images/ and masks/, or alike, or with train/ and val/ that have these in them',
    )
    parser.add_argument('-o', '--out', metavar='RUN', required=True, help='new folder for config, weights and scores')
    parser.add_argument(
        '--from',
        dest='model',
        metavar='MODEL',
        default='BiRefNet_lite',
        help='name of a released model (see mmbirefnet models), or a checkpoint (default: %(default)s)',
    )
    parser.add_argument('--config', metavar='FILE', help='config that fits a checkpoint of a model of your own')
    parser.add_argument(
        '--recipe',
        default='auto',
        metavar='NAME[+NAME…]',
        help='how to train: auto chooses by the data; else names of configs/_base_/finetune (default: %(default)s)',
    )
    parser.add_argument('--val', metavar='DIR', help='images and masks to validate on; by default some are held out')
    parser.add_argument('--old-data', metavar='DIR', help='images and masks not to forget, mixed in')
    parser.add_argument('--old-share', type=float, default=0.25, metavar='F', help='of them (default: %(default)s)')
    parser.add_argument('--epochs', type=int, metavar='N', help='by default by the number of images')
    parser.add_argument('--batch-size', type=int, metavar='N', help="images per step; by default the config's")
    parser.add_argument('--memory', type=float, metavar='GIB', help='to stay below; by default what there is')
    parser.add_argument('--no-check', action='store_true', help='train on data with faults')
    parser.add_argument('--dry-run', action='store_true', help='only write the config')
    parser.add_argument(
        '--cfg-options', nargs='+', action=ConfigOptions, metavar='KEY=VALUE', help='further settings of the config'
    )


def run(args: argparse.Namespace) -> int:
    from mmbirefnet.engine.finetune import finetune

    finetune(
        *(args.data, args.out, args.model, args.recipe),
        config=args.config,
        val=args.val,
        old_data=args.old_data,
        old_share=args.old_share,
        epochs=args.epochs,
        batch_size=args.batch_size,
        memory=args.memory,
        check=not args.no_check,
        options=args.cfg_options,
        dry_run=args.dry_run,
    )
    return 0
