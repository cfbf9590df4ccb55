"""Train a model: ``python tools/train.py CONFIG [options]``."""

import argparse

from mmengine.config import Config
from mmengine.device import get_device
from mmengine.logging import print_log
from torch.distributed.elastic.multiprocessing.errors import record

from mmbirefnet.engine.launch import add_common_arguments, load_config, runner_of
from mmbirefnet.engine.optimizers import RULES, scale_lr
from mmbirefnet.utils.allocator import keep_freed_memory
from mmbirefnet.utils.console import escape_unprintable


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Train a model')
    parser.add_argument('config', help='config file')
    parser.add_argument('--resume', action='store_true', help='continue from the latest checkpoint in the work dir')
    parser.add_argument('--amp', action='store_true', help='mixed precision (bfloat16, unless set in the config)')
    parser.add_argument(
        '--auto-scale-lr',
        choices=RULES,
        help="scale the learning rate: linear with the total batch size (mmengine's auto_scale_lr), or with the square "
        'root (sqrt) of the batch size per GPU, as in the reference',
    )
    add_common_arguments(parser)
    return parser.parse_args()


def enable_amp(cfg: Config) -> None:
    """Switch the optimizer wrapper of the config to bfloat16 autocast, or keep its mixed precision.

    Raises:
        SystemExit: If the config has another type of optimizer wrapper.
    """
    kind = cfg.optim_wrapper.get('type', 'OptimWrapper')
    if kind == 'OptimWrapper':
        cfg.optim_wrapper.type = 'mmbirefnet.BFloat16OptimWrapper'
    elif kind in ('AmpOptimWrapper', 'mmbirefnet.BFloat16OptimWrapper'):
        print_log(f'--amp: the config already uses mixed precision ({kind})', logger='current')
    else:
        raise SystemExit(f'error: --amp needs an optim_wrapper of type OptimWrapper, but the config has {kind}')


@record  # torchrun then reports which rank failed, and why
def main() -> None:
    escape_unprintable()
    args = parse_args()
    if get_device() == 'cpu':
        keep_freed_memory()
    cfg = load_config(args)
    cfg.resume = args.resume or cfg.get('resume', False)
    if args.amp:
        enable_amp(cfg)
    if args.auto_scale_lr:
        try:
            scale_lr(cfg, args.auto_scale_lr)
        except ValueError as error:
            raise SystemExit(f'error: {error}') from error
    if cfg.optim_wrapper.get('type') == 'AmpOptimWrapper' and get_device() == 'cpu':
        raise SystemExit(
            "error: mmengine's AmpOptimWrapper needs a GPU; on a CPU set "
            'optim_wrapper.type=mmbirefnet.BFloat16OptimWrapper (bfloat16) or OptimWrapper (float32)'
        )
    with runner_of(cfg) as runner:
        runner.train()


if __name__ == '__main__':
    main()
