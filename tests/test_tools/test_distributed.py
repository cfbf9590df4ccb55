"""tools/dist_train.sh and dist_test.sh with two processes on the CPU, against one process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from processes import finish, free_port, start

ROOT = Path(__file__).parents[2]
# Each rank writes its weights before and after training.
DUMP_HOOK = """
import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@HOOKS.register_module()
class DumpRankHook(Hook):
    def dump(self, runner, name):
        module = getattr(runner.model, 'module', runner.model)
        torch.save(module.state_dict(), f'{runner.work_dir}/{name}{get_rank()}.pth')

    def before_train(self, runner):
        self.dump(runner, 'before')

    def after_train(self, runner):
        self.dump(runner, 'after')
"""
DUMP_CONFIG = """
custom_imports = dict(imports=['dump_rank_hook'])
custom_hooks = [dict(type='DumpRankHook')]
"""


@pytest.fixture
def run(tmp_path, tiny_data):
    """Runs a command without GPUs."""
    (tmp_path / 'dump_rank_hook.py').write_text(DUMP_HOOK)

    def command(*words):
        environment = os.environ | {
            'CUDA_VISIBLE_DEVICES': '',
            'OMP_NUM_THREADS': '1',
            'PORT': free_port(),
            'PYTHON': sys.executable,
            'PYTHONPATH': f'{tmp_path}:{ROOT}',
            'MMBIREFNET_DATA': str(tiny_data),
        }
        done = subprocess.run(
            [str(word) for word in words], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stdout + done.stderr

    return command


@pytest.mark.soak
def test_two_processes_train_and_test_like_one(run, tiny_config, tiny_data, tmp_path):
    """Two iterations of one image each on two ranks are two iterations of two images on one."""
    tiny_config.write_text(tiny_config.read_text() + DUMP_CONFIG)
    one, two = tmp_path / 'one', tmp_path / 'two'
    options = ['--work-dir', one, '--cfg-options', 'train_dataloader.batch_size=2', 'train_cfg.val_interval=1']
    environment = dict(
        CUDA_VISIBLE_DEVICES='', MMBIREFNET_DATA=str(tiny_data), OMP_NUM_THREADS='1', PYTHONPATH=str(tmp_path)
    )
    finish(start(tmp_path, 'tools/train.py', tiny_config, *options, **environment))
    run(ROOT / 'tools/dist_train.sh', tiny_config, 2, '--work-dir', two)

    before, alone = torch.load(one / 'before0.pth'), torch.load(one / 'after0.pth')
    first, second = torch.load(two / 'after0.pth'), torch.load(two / 'after1.pth')
    assert list(first) == list(second) == list(alone)
    for name in alone:
        torch.testing.assert_close(first[name], second[name], rtol=0, atol=0)
        torch.testing.assert_close(first[name], alone[name], rtol=1e-4, atol=1e-6)
    assert max((alone[name] - before[name]).abs().max() for name in alone) > 1e-3

    checkpoint = one / 'epoch_1.pth'
    run(ROOT / 'tools/dist_test.sh', tiny_config, checkpoint, 2, '--work-dir', tmp_path / 'test')
    (scores,) = (json.loads(path.read_text()) for path in (tmp_path / 'test').glob('*/*.json'))
    (log,) = one.glob('*/vis_data/scalars.json')
    logged = [json.loads(line) for line in log.read_text().splitlines()]
    assert scores['mIoU'] == logged[-1]['mIoU']


@pytest.mark.soak
@pytest.mark.parametrize(('rendezvous', 'processes'), [('master', 1), ('c10d', 2)])
def test_two_nodes_train_like_one_process(tiny_config, tiny_data, tmp_path, rendezvous, processes):
    """Two agents on one machine stand for two nodes; a step of all is one of the whole batch in one process."""
    batch = 2 * processes
    tiny_config.write_text(tiny_config.read_text() + DUMP_CONFIG)
    (tmp_path / 'dump_rank_hook.py').write_text(DUMP_HOOK)
    own = dict(CUDA_VISIBLE_DEVICES='', MMBIREFNET_DATA=str(tiny_data), OMP_NUM_THREADS='1')
    one, several = tmp_path / 'one', tmp_path / 'several'
    options = ['--work-dir', one, '--cfg-options', f'train_dataloader.batch_size={batch}']
    finish(start(tmp_path, 'tools/train.py', tiny_config, *options, **own, PYTHONPATH=str(tmp_path)))

    port, agents = free_port(), []
    for node in range(2):
        environment = os.environ | own | dict(PYTHON=sys.executable, PYTHONPATH=f'{tmp_path}:{ROOT}')
        if rendezvous == 'master':
            environment |= dict(NNODES='2', NODE_RANK=str(node), MASTER_ADDR='127.0.0.1', PORT=port)
            words = [ROOT / 'tools/dist_train.sh', tiny_config, processes]
        else:
            words = [sys.executable, '-m', 'torch.distributed.run', '--nnodes', 2, '--nproc-per-node', processes]
            words += ['--rdzv-backend', 'c10d', '--rdzv-endpoint', f'127.0.0.1:{port}', '--rdzv-id', 'job1']
            words += ['--max-restarts', 3, ROOT / 'tools/train.py', tiny_config, '--launcher', 'pytorch']
        words += ['--work-dir', several]
        pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        agents.append(subprocess.Popen(map(str, words), env=environment, cwd=tmp_path, **pipes))
    outputs = [agent.communicate(timeout=300)[0] for agent in agents]
    assert [agent.returncode for agent in agents] == [0, 0], '\n'.join(outputs)

    before, alone = torch.load(one / 'before0.pth'), torch.load(one / 'after0.pth')
    ranks = [torch.load(several / f'after{rank}.pth') for rank in range(batch)]
    for name, expected in alone.items():
        for rank in ranks:
            torch.testing.assert_close(rank[name], ranks[0][name], rtol=0, atol=0)
        torch.testing.assert_close(ranks[0][name], expected, rtol=1e-4, atol=1e-6)
    assert max((alone[name] - before[name]).abs().max() for name in alone) > 1e-3
