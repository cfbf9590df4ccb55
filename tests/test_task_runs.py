"""Configs of tasks with ways of their own, run with a small model: matting, a size for each batch, wide images."""

import json
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.dataset import DefaultSampler
from mmengine.hooks import Hook
from mmengine.runner import Runner
from small_model import shrink

from mmbirefnet.datasets import DynamicSizeBatchSampler
from mmbirefnet.datasets.preparation.synthetic import write_dataset

CONFIGS = Path(__file__).parents[1] / 'configs'


class Recorder(Hook):
    """What each iteration's batch looked like, and the loss weights of each epoch."""

    def __init__(self):
        self.shapes, self.levels, self.weights = [], [], []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.shapes.append({tuple(image.shape[1:]) for image in data_batch['inputs']})
        self.levels.append(min(len(sample.gt_sem_seg.data.unique()) for sample in data_batch['data_samples']))

    def after_train_epoch(self, runner):
        losses = runner.model.decode_head.loss_decode
        self.weights.append({type(loss).__name__: loss.loss_weight for loss in losses})


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp('data')
    list(write_dataset(root, {'train': 4, 'val': 2}, (64, 48)))
    return root


def run(name, data, work_dir, epochs=3, size=(64, 32)):
    """Train a config's small model, and validate it at the end."""
    cfg = Config.fromfile(CONFIGS / name)
    shrink(cfg.model)
    for loader, folder in ((cfg.train_dataloader, 'train'), (cfg.val_dataloader, 'val')):
        loader.dataset.update(data_root=str(data), sets=[folder])
        loader.update(num_workers=0, persistent_workers=False, batch_size=2 if folder == 'train' else 1)
        for step in loader.dataset.pipeline:
            if step.type == 'mmbirefnet.Resize':
                step.scale = size
    if 'batch_sampler' in cfg.train_dataloader:
        cfg.train_dataloader.batch_sampler.update(min_size=(32, 32), max_size=(96, 96))
    cfg.train_cfg.update(max_epochs=epochs, val_begin=epochs)
    cfg.default_hooks.loss_schedule.last_epochs = epochs - 1
    cfg.val_evaluator.num_workers = 0
    cfg.default_hooks.checkpoint.interval = epochs
    cfg.env_cfg.dist_cfg.backend = 'gloo'
    cfg.work_dir = str(work_dir)
    cfg.visualizer.name = work_dir.name  # mmengine keeps one for each name
    runner = Runner.from_cfg(cfg)
    recorder = Recorder()
    runner.register_hook(recorder, priority='LOWEST')
    runner.train()
    (log,) = work_dir.glob('*/vis_data/scalars.json')
    return runner, recorder, [json.loads(line) for line in log.read_text().splitlines()][-1]


@pytest.mark.soak
def test_matting_keeps_masks_soft_and_has_no_iou(data, tmp_path):
    name = 'birefnet_matting/birefnet_swin-l_8xb4-150e_matting-1024x1024.py'
    runner, recorder, scores = run(name, data, tmp_path)
    assert min(recorder.levels) > 10
    assert recorder.weights == [
        {'BCELoss': 30, 'MAELoss': 100, 'SSIMLoss': pytest.approx(10 * 0.9**k)} for k in (0, 1, 2)
    ]
    assert runner.val_evaluator.metrics[0].soft_masks
    assert 0 < scores['MSE'] < scores['MAE'] < 1
    assert [path.name for path in tmp_path.glob('best_*')] == ['best_MAE_epoch_3.pth']


@pytest.mark.soak
def test_dynamic_sizes_are_the_samplers(data, tmp_path):
    name = 'birefnet_dynamic/birefnet_swin-l_8xb2-200e_general-256x256-2304x2304.py'
    _, recorder, scores = run(name, data, tmp_path)
    indices = DefaultSampler(range(4), seed=7)
    sampler = DynamicSizeBatchSampler(indices, batch_size=2, min_size=(32, 32), max_size=(96, 96))
    expected = [sampler.size_of(epoch, batch) for epoch in range(3) for batch in range(2)]
    assert recorder.shapes == [{(height, width)} for width, height in expected]
    assert len(set(expected)) > 3
    assert [weights['MAELoss'] for weights in recorder.weights] == pytest.approx([100, 90, 81])
    assert 'wFmeasure' in scores


def test_wide_images_stay_wide(data, tmp_path):
    name = 'birefnet_general/birefnet_swin-t_8xb4-250e_general-2560x1440.py'
    cfg = Config.fromfile(CONFIGS / name)
    cfg.train_dataloader.update(num_workers=0, persistent_workers=False, batch_size=1)
    cfg.train_dataloader.dataset.update(data_root=str(data), sets=['train'], larger_than=None)
    batch = next(iter(Runner.build_dataloader(cfg.train_dataloader)))
    assert batch['inputs'][0].shape == (3, 1440, 2560)
    assert batch['data_samples'][0].gt_sem_seg.data.shape == (1, 1440, 2560)
