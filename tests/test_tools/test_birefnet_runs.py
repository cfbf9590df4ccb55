"""BiRefNet through the command lines, ours and mmsegmentation's own, on drawn objects."""

import os
import subprocess
import sys
from pathlib import Path

import cv2
import mmseg
import numpy as np
import pytest
import torch
from processes import finish, start
from small_images import SMALL_IMAGES
from test_distributed import DUMP_CONFIG, DUMP_HOOK, free_port

from mmbirefnet.datasets.preparation.synthetic import write_dataset

ROOT = Path(__file__).parents[2]
STOCK = Path(mmseg.__file__).parent / '.mim' / 'tools'
(CONFIG,) = (ROOT / 'configs/birefnet_synthetic').glob('birefnet_swin-nano_*_synthetic-*.py')
# Small enough for seconds: two iterations of two images of 64x64.
OVERRIDES = f"""
_base_ = '{CONFIG}'
model = dict(
    backbone=dict(arch=dict(embed_dims=8, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2), window_size=4)),
    neck=dict(in_channels=[16, 32, 64, 128], aux_classifier=True),
    decode_head=dict(in_channels=[16, 32, 64, 128]),
)
{SMALL_IMAGES}
param_scheduler = []
train_cfg = dict(max_epochs=1, val_interval=1)
default_hooks = dict(checkpoint=dict(interval=1))
"""


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """A data root and a config."""
    folder = tmp_path_factory.mktemp('birefnet')
    for _ in write_dataset(str(folder / 'data'), {'DIS-TR': 4, 'DIS-VD': 2}, (80, 96), seed=0):
        pass
    (folder / 'tiny.py').write_text(OVERRIDES)
    (folder / 'dump_rank_hook.py').write_text(DUMP_HOOK)
    (folder / 'tiny_dump.py').write_text(OVERRIDES + DUMP_CONFIG)
    return folder


def run(folder, *words) -> str:
    environment = os.environ | {
        'CUDA_VISIBLE_DEVICES': '',
        'MMBIREFNET_DATA': str(folder / 'data'),
        'OMP_NUM_THREADS': '1',
        'PORT': free_port(),
        'PYTHON': sys.executable,
        'PYTHONPATH': f'{folder}:{ROOT}',
    }
    done = subprocess.run([str(word) for word in words], env=environment, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


def run_tool(folder, tool, *words) -> str:
    """As ``run`` of a tool in Python, started faster."""
    environment = dict(
        CUDA_VISIBLE_DEVICES='', MMBIREFNET_DATA=f'{folder}/data', OMP_NUM_THREADS='1', PYTHONPATH=str(folder)
    )
    return finish(start(folder, tool, *words, **environment))


def maps(folder) -> dict[str, np.ndarray]:
    return {path.name: cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in sorted(Path(folder).rglob('*.png'))}


@pytest.mark.soak
def test_stock_and_own_tools_give_the_same(folder):
    """mmsegmentation's train.py and test.py run our configs and write what ours write."""
    trained, written = {}, {}
    for name, tools in (('ours', ROOT / 'tools'), ('stock', STOCK)):
        work_dir = folder / name
        run_tool(folder, tools / 'train.py', 'tiny.py', '--work-dir', work_dir)
        checkpoint = work_dir / 'epoch_1.pth'
        trained[name] = torch.load(checkpoint)['state_dict']
        arguments = [checkpoint, '--work-dir', work_dir, '--out', work_dir / 'maps', '--show-dir', work_dir / 'shown']
        each = ['--cfg-options', 'default_hooks.visualization.interval=1']
        log = run_tool(folder, tools / 'test.py', 'tiny.py', *arguments, *each)
        assert 'wFmeasure' in log
        written[name] = maps(work_dir / 'maps')
        assert [len(maps(work_dir / name)) for name in ('maps', 'shown')] == [2, 2]
    checkpoint, plain = folder / 'ours' / 'epoch_1.pth', folder / 'plain'
    arguments = [checkpoint, '--work-dir', plain, '--out', plain / 'maps', '--no-fuse']
    run_tool(folder, 'tools/test.py', 'tiny.py', *arguments)
    written['plain'] = maps(plain / 'maps')
    for key, value in trained['ours'].items():
        assert torch.equal(value, trained['stock'][key]), key
    assert [image.shape for image in written['ours'].values()] == [(80, 96)] * 2
    for stem, image in written['ours'].items():
        assert np.array_equal(written['plain'][stem], written['stock'][stem])
        # The fused model rounds differently.
        assert np.abs(image.astype(int) - written['stock'][stem]).max() <= 1


@pytest.mark.soak
def test_resume_and_amp(folder):
    work_dir = folder / 'amp'
    train = ['tools/train.py', 'tiny.py', '--work-dir', work_dir, '--amp']
    run_tool(folder, *train)
    run_tool(folder, *train, '--resume', '--cfg-options', 'train_cfg.max_epochs=2')
    checkpoint = torch.load(work_dir / 'epoch_2.pth')
    assert checkpoint['meta']['iter'] == 4
    for key, value in checkpoint['state_dict'].items():
        assert value.isfinite().all(), key
        assert value.dtype in (torch.float32, torch.int64), key


@pytest.mark.soak
def test_two_ranks_hold_the_same_parameters(folder):
    """Two iterations on two gloo processes; an unused parameter would stop DistributedDataParallel in the second."""
    work_dir = folder / 'two'
    options = ['--work-dir', work_dir, '--cfg-options', 'train_dataloader.batch_size=1']
    run(folder, ROOT / 'tools/dist_train.sh', folder / 'tiny_dump.py', 2, *options)
    before, first, second = (torch.load(work_dir / f'{name}.pth') for name in ('before0', 'after0', 'after1'))
    names = [name for name in first if 'running' not in name and 'num_batches' not in name]
    assert len(names) > 200
    for name in names:
        assert torch.equal(first[name], second[name]), name
    assert sum(not torch.equal(before[name], first[name]) for name in names) > 0.9 * len(names)
