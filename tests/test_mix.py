"""Every config of configs/mix trains two iterations and tests an image through mmengine's Runner, made small."""

import math
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from doc_blocks import blocks
from forks import STOCK, findable
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import nn

from mmbirefnet.datasets.preparation.synthetic import write_dataset
from mmbirefnet.models import LocalizationModule
from mmbirefnet.registry import MODELS

ROOT = Path(__file__).parents[1]
CONFIGS = sorted(filter(findable, (ROOT / 'configs/mix').glob('*.py')))
CLASSES = 150
SIZE = (64, 64)

RESNET = dict(depth=18, base_channels=8, stem_channels=8, norm_cfg=dict(type='BN'))
SWIN = dict(arch=dict(embed_dims=8, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2), window_size=4))
MIT = dict(embed_dims=8, num_layers=[1, 1, 1, 1])
CONVNEXT = dict(arch=dict(depths=[1, 1, 1, 1], channels=[8, 16, 32, 64]))
ASPP = dict(aspp_cfg=dict(branch_channels=8))
BIREF = dict(backbone_channels=[8, 16, 32, 64], neck=ASPP, decode_head=ASPP)
SMALL = {
    'birefnet_r18': dict(BIREF, backbone=RESNET),
    'birefnet_mit-b2': dict(BIREF, backbone=MIT, backbone_channels=[8, 16, 40, 64]),
    'birefnet_convnext-t': dict(BIREF, backbone=CONVNEXT),
    'birefnet_swin-t': dict(BIREF, backbone=SWIN),
    'segformer_mit-b2': dict(backbone=MIT, decode_head=dict(in_channels=[8, 16, 40, 64], channels=8)),
    'upernet_r50': dict(
        backbone=RESNET,
        decode_head=dict(in_channels=[8, 16, 32, 64], channels=8),
        auxiliary_head=dict(in_channels=32, channels=8),
    ),
    'fcn_r50-d8': dict(
        backbone=RESNET,
        decode_head=dict(in_channels=64, channels=8),
        auxiliary_head=dict(in_channels=32, channels=8),
    ),
    'upernet_swin-t': dict(
        backbone=SWIN,
        decode_head=dict(in_channels=[8, 16, 32, 64], channels=8),
        auxiliary_head=dict(in_channels=32, channels=8),
    ),
    'upernet_r50-lm': dict(
        backbone=RESNET,
        neck=dict(ASPP, in_channels=[8, 16, 32, 64]),
        decode_head=dict(in_channels=[8, 16, 32, 64], channels=8),
        auxiliary_head=dict(in_channels=32, channels=8),
    ),
}
SOFT = {'loss_bce', 'loss_iou', 'loss_ssim'}
LOSSES = {
    'birefnet_r18': SOFT | {'loss_gradient'},
    'birefnet_mit-b2': SOFT | {'loss_gradient'},
    'birefnet_convnext-t': SOFT | {'loss_gradient'},
    'birefnet_swin-t': {'loss_ce', 'loss_gradient'},
    'segformer_mit-b2': SOFT,
    'upernet_r50': SOFT | {'aux.loss_bce'},
    'fcn_r50-d8': SOFT | {'aux.loss_bce'},
    'upernet_swin-t': {'loss_ce', 'aux.loss_ce'},
    'upernet_r50-lm': {'loss_ce', 'aux.loss_ce'},
}


def ids(path: Path) -> str:
    return '_'.join(path.stem.split('_')[:2])


@pytest.fixture(scope='module')
def data(tmp_path_factory) -> Path:
    """DIS5K's layout with soft masks in ``dis``, ADE20K's with class indices in ``ade``."""
    folder = tmp_path_factory.mktemp('data')
    for _ in write_dataset(folder / 'dis', {'DIS-TR': 4, 'DIS-VD': 1}, (70, 90)):
        pass
    rng = np.random.default_rng(0)
    for split, count in (('training', 4), ('validation', 1)):
        for kind in ('images', 'annotations'):
            (folder / 'ade' / kind / split).mkdir(parents=True)
        for index in range(count):
            image = rng.integers(0, 256, (70, 90, 3), dtype=np.uint8)
            labels = np.kron(rng.integers(0, CLASSES + 1, (7, 9)), np.ones((10, 10))).astype(np.uint8)
            cv2.imwrite(str(folder / f'ade/images/{split}/{index}.jpg'), image)
            cv2.imwrite(str(folder / f'ade/annotations/{split}/{index}.png'), labels)
    return folder


def small(path: Path, data: Path, work_dir: Path) -> Config:
    """The config with a small model, small images, and the generated data."""
    cfg = Config.fromfile(path)
    multiclass = 'ade20k' in path.stem
    cfg.model.pop('pretrained', None)
    for option in ('init_cfg', 'arch'):
        cfg.model.backbone.pop(option, None)
    cfg.merge_from_dict(dict(model=SMALL[ids(path)]))
    if multiclass:
        cfg.merge_from_dict(
            dict(model=dict(data_preprocessor=dict(size=SIZE)), train_cfg=dict(max_iters=2), work_dir=str(work_dir))
        )
    else:
        cfg.merge_from_dict(dict(train_cfg=dict(max_epochs=1), work_dir=str(work_dir)))
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.update(num_workers=0, persistent_workers=False)
        loader.dataset.data_root = str(data / ('ade' if multiclass else 'dis'))
        for step in loader.dataset.pipeline:
            if step.type in ('mmbirefnet.Resize', 'Resize', 'RandomResize'):
                step.scale = SIZE
            elif step.type == 'RandomCrop':
                step.crop_size = SIZE
    cfg.train_dataloader.batch_size = 2
    cfg.param_scheduler = []  # a warm-up would hide whether parameters learn
    for evaluator in (cfg.val_evaluator, cfg.test_evaluator):
        if not multiclass:
            evaluator.update(num_workers=0)
    cfg.experiment_name = path.stem
    cfg.log_level = 'ERROR'
    return cfg


class Record(Hook):
    """Losses and parameters of the training, predictions of the test."""

    def __init__(self) -> None:
        self.losses, self.predictions = [], []

    def before_train(self, runner) -> None:
        self.before = {name: parameter.detach().clone() for name, parameter in runner.model.named_parameters()}

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        self.losses.append({name: float(value) for name, value in outputs.items()})

    def after_test_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        self.predictions.extend(outputs)


@pytest.mark.parametrize('path', CONFIGS, ids=ids)
@pytest.mark.soak
def test_trains_and_tests(path, data, tmp_path):
    runner = Runner.from_cfg(small(path, data, tmp_path))
    record = Record()
    runner.register_hook(record)
    runner.train()
    assert len(record.losses) == 2
    assert all(math.isfinite(value) for losses in record.losses for value in losses.values())
    assert {name.removeprefix('decode.') for name in record.losses[0]} >= LOSSES[ids(path)]
    for name, parameter in runner.model.named_parameters():
        # A bias before a norm learns nothing.
        assert parameter.dim() == 1 or not torch.equal(parameter, record.before[name]), name

    scores = runner.test()
    (sample,) = record.predictions
    logits, predicted = sample.seg_logits.data, sample.pred_sem_seg.data
    truth = sample.gt_sem_seg.data
    assert logits.shape[1:] == predicted.shape[1:] == truth.shape[1:] == (70, 90)
    if 'ade20k' in path.stem:
        assert torch.equal(predicted[0], logits.argmax(0))
        labelled = truth != 255
        assert scores['aAcc'] == pytest.approx(100 * (predicted == truth)[labelled].double().mean().item(), abs=0.006)
    else:
        assert 0 <= logits.min() < logits.max() <= 1
        assert torch.equal(predicted, (logits > 0.5).float())
        levels = (logits * 255).int().double()
        assert levels.min() < levels.max()  # the benchmark stretches maps to the whole range
        stretched = (levels - levels.min()) / (levels.max() - levels.min())
        error = (stretched - (truth > 128 / 255).double()).abs().mean()
        assert scores['MAE'] == pytest.approx(error.item(), abs=1e-4)
        assert truth.unique().numel() > 2  # the mask is still soft


PAGE = (ROOT / 'docs/en/advanced_guides/mixing.md').read_text('utf-8')


def build(cfg: Config) -> nn.Module:
    """With parameters that take no memory, where the backbone can do that."""
    cfg.model.pop('pretrained', None)
    on_meta = cfg.model.backbone.type not in ('mmpretrain.ConvNeXt', 'MixVisionTransformer')
    with torch.device('meta' if on_meta else 'cpu'):
        return MODELS.build(cfg.model)


@pytest.mark.skipif(not STOCK, reason='onedl-mmengine does not find the base configs of onedl-mmsegmentation')
@pytest.mark.soak
def test_page_lists_the_configs():
    rows = dict(re.findall(r'^\| `(\S+\.py)` \|.+\| ([\d.]+) M \|$', PAGE, re.M))
    assert sorted(rows) == [path.name for path in CONFIGS]
    for path in CONFIGS:
        size = sum(parameter.numel() for parameter in build(Config.fromfile(path)).parameters())
        assert f'{size / 1e6:.1f}' == rows[path.name], path


@pytest.mark.parametrize('example', blocks('docs/en/advanced_guides/mixing.md', 'examples'))
@pytest.mark.soak(keep=1)
def test_examples_of_the_page(example, tmp_path):
    path = tmp_path / 'example.py'
    path.write_text(example.replace("_base_ = '", f"_base_ = '{ROOT}/configs/mix/"))
    if not findable(path):
        pytest.skip('onedl-mmengine does not find the base configs of onedl-mmsegmentation')
    model = build(Config.fromfile(path))
    changed = Config.fromfile(path).model
    if 'background' in changed.decode_head:
        assert model.decode_head.background == 0
        assert model.decode_head.conv_logits.out_channels == 21
    if 'neck' in changed:
        assert type(model.neck) is LocalizationModule
    assert model.decode_head.loss_decode
