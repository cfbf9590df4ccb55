"""``mmbirefnet finetune``: fine-tune a model on your own images and masks."""

from __future__ import annotations

import argparse

from mmbirefnet.fileio.configs import ConfigOptions

from .options import add_crop_order_argument


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        'data',
        metavar='DATA',
        help='folder with im/ and gt/, images/ and masks/ or similar, or with train/ and val/ that contain these',
    )
    parser.add_argument(
        '-o', '--out', metavar='RUN', required=True, help='new folder for the config, weights and scores'
    )
    parser.add_argument(
        '--from',
        dest='model',
        metavar='MODEL',
        default='BiRefNet_lite',
        help='name of a released model (see mmbirefnet models), or a checkpoint (default: %(default)s)',
    )
    parser.add_argument(
        '--config', metavar='FILE', help='config of --from, needed only for a checkpoint with your own architecture'
    )
    parser.add_argument(
        '--recipe',
        default='auto',
        metavar='NAME[+NAME…]',
        help='training recipe: auto chooses one for the data; otherwise names of files in configs/_base_/finetune '
        '(default: %(default)s)',
    )
    parser.add_argument('--val', metavar='DIR', help='images and masks for validation (default: hold out some of DATA)')
    parser.add_argument(
        '--old-data',
        metavar='DIR',
        help='images and masks of earlier training to mix in, so that the model does not forget them',
    )
    parser.add_argument(
        '--old-share',
        type=float,
        default=0.25,
        metavar='F',
        help='fraction of --old-data in each epoch (default: %(default)s)',
    )
    parser.add_argument(
        '--epochs', type=int, metavar='N', help='number of epochs (default: depends on the number of images)'
    )
    parser.add_argument('--batch-size', type=int, metavar='N', help='images per step (default: that of the config)')
    parser.add_argument(
        '--memory',
        type=float,
        metavar='GIB',
        help='memory limit of training (default: 95 %% of the free memory of the GPU, or 60 %% of the machine memory)',
    )
    add_crop_order_argument(parser)
    parser.add_argument('--no-check', action='store_true', help='train even if the data has problems')
    parser.add_argument('--dry-run', action='store_true', help='only write the config')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=ConfigOptions,
        metavar='KEY=VALUE',
        help='override settings of the config',
    )


def run(args: argparse.Namespace) -> int:
    from mmengine.device import get_device

    from mmbirefnet.engine.finetune import finetune
    from mmbirefnet.utils.allocator import keep_freed_memory

    if get_device() == 'cpu':
        keep_freed_memory()
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
        crop_order=args.crop_order,
        options=args.cfg_options,
        dry_run=args.dry_run,
    )
    return 0
