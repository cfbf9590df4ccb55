"""Memory and open files over two thousand steps of training and five hundred images of testing."""

import json

import numpy as np
import pytest
import torch
from memory import MEASURABLE
from processes import finish, start
from tiny_birefnet import ENVIRONMENT, train, write_folder

STEPS, IMAGES = 2000, 500
MORE = f"""
custom_imports = dict(imports=['resources_hook'])
custom_hooks = [dict(type='ResourcesHook')]
model.update(multi_scale_input=False)
small = dict(in_channels=[8, 16, 32, 64], aspp_cfg=None)
model['neck'].update(small)
model['decode_head'].update(
    small, inward_reference=False, gradient_supervision=False, multi_scale_supervision=False,
    loss_decode=[dict(type='mmbirefnet.BCELoss')])
train_pipeline[2]['scale'] = test_pipeline[1]['scale'] = (32, 32)
train_dataloader.update(num_workers=1)
optim_wrapper = dict(optimizer=dict(foreach=True))
train_cfg = dict(max_epochs={STEPS // 20}, val_interval=5)  # often: what a validation keeps once is kept early
default_hooks = dict(checkpoint=dict(interval=200, by_epoch=False, max_keep_ckpts=2), logger=dict(interval=10))
test_dataloader = dict(
    num_workers=1,
    dataset=dict(
        _delete_=True,
        type='RepeatDataset',
        times={IMAGES // 10},
        dataset=dict(
            type='mmbirefnet.DIS5KDataset', data_root='data', sets='DIS-VD', pipeline=test_pipeline, test_mode=True),
    ),
)
test_evaluator = dict(_delete_=True, type='mmbirefnet.DichotomousMetric', measures=['MAE', 'Smeasure', 'maxFm'])
"""
HOOK = """
import ctypes, json, os, time
from memory import used
from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@HOOKS.register_module()
class ResourcesHook(Hook):
    '''Memory in bytes and open files, every twenty iterations.'''

    priority = 'LOWEST'

    def __init__(self):
        self.seen = []

    def _after_iter(self, runner, batch_idx, data_batch=None, outputs=None, mode='train'):
        number = runner.iter if mode == 'train' else batch_idx
        if mode != 'val' and number % 20 == 0:
            ctypes.CDLL(None).malloc_trim(0)  # what is free goes back: the rest is in use
            self.seen.append((number, *used()))

    def after_run(self, runner):
        with open(os.path.join(runner.work_dir, 'resources.json'), 'w') as file:
            json.dump(dict(seen=self.seen, seconds=time.process_time()), file)
"""


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('long')
    write_folder(folder, MORE, **{'DIS-TR': 40, 'DIS-VD': 10})
    (folder / 'resources_hook.py').write_text(HOOK)
    return folder


def slopes(path, warm_up=0.5):
    """Bytes and open files that a step adds, after a share of them; and the number of the last one."""
    measured = json.loads(path.read_text())
    steps, memory, files = np.array(measured['seen'], dtype=float).T
    late = steps >= warm_up * steps[-1]
    slopes = [median_slope(steps[late], values[late]) for values in (memory, files)]
    print(f'{path.parent.name}: {slopes[0]:.0f} bytes and {slopes[1]:.5f} files a step, {measured["seconds"]:.0f} s')
    return *slopes, steps[-1]


def median_slope(x, y):
    """Theil and Sen's, of pairs up to ten measurements apart: what is allocated once and kept is in few of them."""
    first, second = np.triu_indices(len(x), 1)
    near = second - first <= 10
    first, second = first[near], second[near]
    return np.median((y[second] - y[first]) / (x[second] - x[first]))


@pytest.mark.soak
@pytest.mark.skipif(not MEASURABLE, reason='reads /proc, which is of Linux')
def test_training_and_testing_stay_flat(folder):
    finish(train(folder, 'run'))
    memory, files, last = slopes(folder / 'run/resources.json')
    assert last == STEPS - 20
    assert memory < 1024  # the log keeps 16 bytes of each of some fifteen numbers
    assert abs(files) < 0.002

    checkpoint = f'run/iter_{STEPS}.pth'
    assert torch.load(folder / checkpoint)['meta']['iter'] == STEPS
    finish(start(folder, 'tools/test.py', 'tiny.py', checkpoint, '--work-dir', 'test', **ENVIRONMENT))
    memory, files, last = slopes(folder / 'test/resources.json')
    assert last == IMAGES - 20
    # Each image's curves are kept to the end, about 10 KB.
    assert memory < 16 * 1024
    assert abs(files) < 0.002
