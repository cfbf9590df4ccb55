"""Common parts of ``tools/train.py`` and ``tools/test.py``."""

import atexit
import gc
import os
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import torch
import torch.distributed
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from mmbirefnet.fileio.configs import ConfigOptions, check_options, read_config
from mmbirefnet.utils.deprecation import warn_renamed

DATA_ROOT_VARIABLE = 'MMBIREFNET_DATA'
# Former keys of default_hooks.
_RENAMED_HOOKS = {'mask_kind': 'soft_masks', 'released_checkpoint': 'pretrained_checkpoint'}


def add_common_arguments(parser: ArgumentParser) -> None:
    """Add the options that training and testing share, named as in mmsegmentation."""
    parser.add_argument('--work-dir', help='folder for logs, checkpoints and scores; default: work_dirs/<config name>')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=ConfigOptions,
        metavar='KEY=VALUE',
        help='replace settings of the config, for example train_dataloader.batch_size=2, model.head.x="[1,2]" or '
        f'data_root="/my data" (which also sets {DATA_ROOT_VARIABLE}, so that every data set of the config follows)',
    )
    parser.add_argument('--launcher', choices=('none', 'pytorch', 'slurm', 'mpi'), default='none', help='job launcher')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help='set by the launcher')


def load_config(args: Namespace) -> Config:
    """Read ``args.config`` and apply the common options.

    A config passes ``data_root`` to its data sets while it is read. So ``data_root`` of ``--cfg-options`` is set before
    that, in the environment variable that the configs read.
    """
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    options = args.cfg_options or {}
    if options.get('data_root') is not None:
        os.environ[DATA_ROOT_VARIABLE] = str(options['data_root'])
    try:
        cfg = read_config(args.config)
        check_options(cfg, options)
        cfg.merge_from_dict(options)
    except (OSError, KeyError, TypeError, ValueError) as error:  # for example, an index beyond the end of a list
        raise SystemExit(f'error: {error}') from error
    cfg.launcher = args.launcher
    cfg.work_dir = args.work_dir or cfg.get('work_dir') or str(Path('work_dirs') / Path(args.config).stem)
    return cfg


def is_fsdp(cfg: Config) -> bool:
    """Whether ``cfg`` shards the model, with ``ResumableFSDPStrategy`` or mmengine's ``FSDPStrategy``."""
    return str(cfg.get('strategy', {}).get('type')).endswith('FSDPStrategy')


@contextmanager
def runner_of(cfg: Config) -> Iterator[Runner]:
    """Build the runner of ``cfg``, within a process group if there are several processes.

    Afterwards, also after an error, float32 matrix products have their former precision (``MatmulPrecisionHook``).

    Without an accelerator, the processes communicate over gloo. mmengine's ``init_dist`` selects a CUDA device for
    every backend, and its ``wrap_model`` passes one to DistributedDataParallel. An existing process group and
    ``device_ids=None`` prevent both.

    Raises:
        SystemExit: If another launcher than torchrun starts processes on CPUs, or if FSDP has only one process.
    """
    _rename_hooks(cfg.get('default_hooks') or {})
    if cfg.get('visualizer'):
        # mmengine caches visualizers by name, with the folder of the first run of this process.
        cfg.visualizer.name = f'visualizer_{uuid4().hex}'
    if cfg.launcher == 'none' and is_fsdp(cfg):
        raise SystemExit('error: FSDP shards a model over processes; use tools/dist_train.sh or --launcher')
    if cfg.launcher != 'none' and get_device() == 'cpu':
        if cfg.launcher != 'pytorch':
            raise SystemExit(f'error: --launcher {cfg.launcher} needs GPUs; on CPUs use tools/dist_train.sh (torchrun)')
        timeout = cfg.get('env_cfg', {}).get('dist_cfg', {}).get('timeout')  # seconds, as in mmengine's init_dist
        options = dict(timeout=timedelta(seconds=timeout)) if timeout else {}
        torch.distributed.init_process_group('gloo', **options)
        # Free the model wrapper, which keeps threads of gloo: a process that ends while they run is aborted.
        atexit.register(gc.collect)
        wrapper = cfg.get('model_wrapper_cfg') or {
            'broadcast_buffers': False,
            'find_unused_parameters': cfg.get('find_unused_parameters', False),
        }
        cfg.model_wrapper_cfg = dict(wrapper, device_ids=None)
        if is_fsdp(cfg):
            cfg.strategy.model_wrapper = dict(cfg.strategy.get('model_wrapper', {}), device_id='cpu')
            # Offloading does not copy tensors that are on the CPU; they are lost when the shards are restored.
            cfg.strategy.state_dict_cfg = dict(
                state_dict_type='FULL_STATE_DICT',
                state_dict_config=dict(type='FullStateDictConfig', rank0_only=True),
                optim_state_dict_config=dict(type='FullOptimStateDictConfig', rank0_only=True),
            )
    precision = torch.get_float32_matmul_precision()
    try:
        yield RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
    except SystemExit:  # stopped by a signal; all ranks stop after this iteration
        _leave_process_group()
        raise
    except RuntimeError as error:
        if 'DataLoader' not in str(error):
            raise
        raise RuntimeError(
            f'{error} Fix: set num_workers=0 of the data loader to see the cause. If /dev/shm or memory is too small, '
            'use fewer workers; if files are slow, raise default_hooks.worker_guard.timeout (seconds)'
        ) from error
    finally:
        torch.set_float32_matmul_precision(precision)  # mmengine calls no hook after an error
    _leave_process_group()


def _rename_hooks(hooks: dict) -> None:
    """Merge the settings under former keys of ``default_hooks`` into those under the new keys."""
    for old, new in _RENAMED_HOOKS.items():
        if old in hooks:
            warn_renamed(f'default_hooks.{old}', f'default_hooks.{new}')
            settings = hooks.pop(old)
            hooks[new] = {**(hooks.get(new) or {}), **settings} if settings else settings


def _leave_process_group() -> None:
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
