"""A segmentor, a data set and a config small enough to train for two iterations in a second."""

from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest
from tool_module import load_tool

from mmbirefnet.engine import launch

ROOT = Path(__file__).parents[2]

TINY_CONFIG = """
default_scope = 'mmseg'
data_root = __import__('os').environ.get('MMBIREFNET_DATA', 'nowhere')
norm_cfg = dict(type='GN', num_groups=1)
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(type='SegDataPreProcessor', mean=[127.5] * 3, std=[127.5] * 3, size=(16, 16)),
    backbone=dict(
        type='ResNet', depth=18, base_channels=4, stem_channels=4, num_stages=1, strides=(1,), dilations=(1,),
        out_indices=(0,), norm_cfg=norm_cfg),
    decode_head=dict(
        type='FCNHead', in_channels=4, channels=4, num_convs=1, num_classes=2, dropout_ratio=0, norm_cfg=norm_cfg),
    test_cfg=dict(mode='whole'))
dataset = dict(
    type='BaseSegDataset', data_root=data_root, data_prefix=dict(img_path='im', seg_map_path='gt'), img_suffix='.png',
    metainfo=dict(classes=('background', 'object'), palette=[[0, 0, 0], [255, 255, 255]]),
    pipeline=[dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'), dict(type='PackSegInputs')])
train_dataloader = dict(
    batch_size=1, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False), dataset=dataset)
test_dataloader = val_dataloader = train_dataloader
test_evaluator = val_evaluator = dict(type='IoUMetric')
train_cfg = dict(by_epoch=True, max_epochs=1, val_interval=9)
val_cfg = dict()
test_cfg = dict()
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.1))
randomness = dict(seed=0)
default_hooks = dict(visualization=dict(type='SegVisualizationHook'))
visualizer = dict(type='SegLocalVisualizer', vis_backends=[dict(type='LocalVisBackend')])
log_level = 'ERROR'
"""


@pytest.fixture
def tiny_data(tmp_path):
    """Four 16x16 images with masks of 0 and 1."""
    rng = np.random.default_rng(0)
    folder = tmp_path / 'data'
    for name in ('im', 'gt'):
        (folder / name).mkdir(parents=True)
    for index in range(4):
        mask = np.zeros((16, 16), np.uint8)
        mask[: 2 + 3 * index] = 1
        noise = rng.integers(0, 100, (16, 16, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f'im/{index}.png'), noise + 150 * mask[..., None])
        cv2.imwrite(str(folder / f'gt/{index}.png'), mask)
    return folder


@pytest.fixture
def tiny_config(tmp_path):
    """A config whose data root is to be given on the command line."""
    path = tmp_path / 'tiny.py'
    path.write_text(TINY_CONFIG)
    return path


@pytest.fixture
def tool(monkeypatch, tmp_path):
    """Runs ``main`` of a tool in this process and returns the runner that it built and used."""

    def run(name, *arguments):
        module = load_tool(ROOT / f'tools/{name}.py')
        runners = []

        @contextmanager
        def keep(cfg):
            with launch.runner_of(cfg) as runner:
                runners.append(runner)
                yield runner

        monkeypatch.setattr(module, 'runner_of', keep)
        monkeypatch.setattr('sys.argv', [f'{name}.py', *map(str, arguments)])
        module.main()
        return runners[0]

    monkeypatch.chdir(tmp_path)
    for variable in (launch.DATA_ROOT_VARIABLE, 'LOCAL_RANK'):  # set by the tools, to be undone afterwards
        monkeypatch.setenv(variable, '')
        monkeypatch.delenv(variable)
    return run
