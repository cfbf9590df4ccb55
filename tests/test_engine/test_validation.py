"""Validation by two processes: of one model, and with its losses in the log."""

import json

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import DefaultScope
from mmengine.runner import load_checkpoint
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from processes import finish, free_port, start
from tiny_birefnet import ENVIRONMENT, write_folder

from mmbirefnet.engine.hooks.val_loss_hook import with_mask_of_size
from mmbirefnet.registry import DATASETS, MODELS, TRANSFORMS

# One epoch of four iterations on each rank; three images to validate, so that one of two ranks repeats one.
CONFIG = """
train_dataloader.update(batch_size=1)
train_cfg = dict(max_epochs=1, val_interval=1)
default_hooks.update(checkpoint=dict(interval=1, save_best='loss'))
custom_imports = dict(imports=['dump_hook'])
custom_hooks.append(dict(type='DumpHook'))
"""
DUMP_HOOK = """
import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@HOOKS.register_module()
class DumpHook(Hook):
    '''Writes the buffers of each rank after the last iteration and at the first image of the validation.'''

    def dump(self, runner, name):
        torch.save(dict(runner.model.module.named_buffers()), f'{runner.work_dir}/{name}{get_rank()}.pth')

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.dump(runner, 'trained')

    def before_val_iter(self, runner, batch_idx, data_batch=None):
        if batch_idx == 0:
            self.dump(runner, 'validated')
"""


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Folder of a training by two processes, in its subfolder ``run``."""
    folder = tmp_path_factory.mktemp('validation')
    write_folder(folder, CONFIG, **{'DIS-TR': 8, 'DIS-VD': 3})
    (folder / 'dump_hook.py').write_text(DUMP_HOOK)
    common = ENVIRONMENT | dict(MASTER_ADDR='127.0.0.1', MASTER_PORT=free_port(), WORLD_SIZE='2')
    options = ['--cfg-options', 'default_hooks.val_loss.type=mmbirefnet.ValLossHook']
    ranks = []
    for rank in '01':
        environment = common | dict(RANK=rank, LOCAL_RANK=rank, PYTHONPATH=str(folder))
        command = ['tools/train.py', 'tiny.py', '--work-dir', 'run', '--launcher', 'pytorch', *options]
        ranks.append(start(folder, *command, output=f'output{rank}.txt', **environment))
    for rank in ranks:
        finish(rank)
    return folder


@pytest.mark.soak
def test_processes_validate_the_same_buffers(folder):
    trained, validated = (
        [torch.load(folder / f'run/{when}{rank}.pth') for rank in '01'] for when in ('trained', 'validated')
    )
    running = [name for name in trained[0] if 'running_' in name]
    assert len(running) == 2 * 38  # means and variances of five blocks with 7 norms and three outward references
    assert any(not torch.equal(trained[0][name], trained[1][name]) for name in running)
    for name, mine in validated[0].items():
        assert torch.equal(mine, validated[1][name]), name
        assert torch.equal(mine, trained[0][name]), name
    saved = torch.load(folder / 'run/epoch_1.pth')['state_dict']
    for name in running:  # EMAHook has put its own model into the checkpoint
        assert torch.equal(saved[name], validated[0][name]), name


def test_loss_is_that_of_the_training_pipeline_averaged_over_all_images(folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setenv('MMBIREFNET_DATA', 'data')
    (log,) = folder.glob('run/*/vis_data/scalars.json')
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    (logged,) = [line for line in lines if 'lr' not in line]
    assert {'MAE', 'wFmeasure'} < logged.keys()

    cfg = Config.fromfile(folder / 'tiny.py', import_custom_modules=False)
    dataset = cfg.val_dataloader.dataset
    plain = ('LoadImage', 'LoadMask', 'Resize', 'PackDichotomousInputs')
    dataset.pipeline = [step for step in cfg.train_pipeline if step.type.split('.')[-1] in plain]
    with DefaultScope.overwrite_default_scope('mmseg'):
        dataset = DATASETS.build(dataset)
        model = MODELS.build(cfg.model).eval()
    load_checkpoint(model, str(folder / 'run/epoch_1.pth'), strict=True)
    rows = []
    with torch.no_grad():
        for sample in dataset:
            data = dict(inputs=[sample['inputs']], data_samples=[sample['data_samples']])
            losses = model(**model.data_preprocessor(data), mode='loss')
            rows.append({name: value.item() for name, value in losses.items()})
    assert len(rows) == 3
    expected = {name: np.mean([row[name] for row in rows]) for name in rows[0]}
    assert {'decode.loss_bce', 'decode.loss_iou', 'decode.loss_ssim', 'decode.loss_gradient'} == expected.keys()
    expected['decode.loss_bce'] *= 0.5  # the factors of LossScheduleHook in this epoch
    expected['decode.loss_iou'] *= 2
    # The training pipeline rounds resized masks to 8 bits.
    for name, value in expected.items():
        assert logged[name] == pytest.approx(value, rel=2e-3), name
    assert logged['loss'] == pytest.approx(sum(expected.values()), rel=2e-3)
    assert (folder / 'run/best_loss_epoch_1.pth').exists()


def sample_of(mask, **metainfo):
    return SegDataSample(metainfo=metainfo, gt_sem_seg=PixelData(data=mask))


def test_soft_mask_is_resized_as_in_training(tmp_path):
    levels = np.random.default_rng(0).integers(0, 256, (37, 53), np.uint8)
    cv2.imwrite(str(tmp_path / 'mask.png'), levels)
    results = dict(seg_map_path=str(tmp_path / 'mask.png'), ori_shape=levels.shape, img_shape=levels.shape)
    with DefaultScope.overwrite_default_scope('mmseg'):
        resize = TRANSFORMS.build(dict(type='mmbirefnet.Resize', scale=(64, 32)))
        load = TRANSFORMS.build(dict(type='mmbirefnet.LoadMask'))
    results = Compose([load, resize])(dict(results, img=np.zeros((*levels.shape, 3), np.uint8)))
    given = sample_of(torch.from_numpy(levels / np.float32(255))[None], img_path='a.png')
    found = with_mask_of_size(given, (32, 64))
    assert found.img_path == 'a.png'
    np.testing.assert_allclose(found.gt_sem_seg.data[0].numpy(), results['gt_seg_map'] / 255, atol=1 / 255)
    assert given.gt_sem_seg.data.shape == (1, 37, 53)


def test_classes_are_resized_to_the_nearest_and_padding_is_ignored():
    classes = torch.tensor([[[0, 7], [3, 255]]])
    found = with_mask_of_size(sample_of(classes, img_padding_size=(0, 1, 0, 2)), (6, 5)).gt_sem_seg.data
    assert found.dtype == classes.dtype
    assert found.tolist() == [[[0, 0, 7, 7, 255]] * 2 + [[3, 3, 255, 255, 255]] * 2 + [[255] * 5] * 2][0:1]


UNEVEN = """
import sys
from functools import partial
from types import SimpleNamespace

import torch
from mmengine.model import BaseModel, MMFullyShardedDataParallel
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch import nn
from torch.distributed.fsdp.wrap import ModuleWrapPolicy
from torch.nn.parallel import DistributedDataParallel

from mmbirefnet.engine import ValLossHook


class Model(BaseModel):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(1)  # its buffers are broadcast in each forward pass of the wrapper

    def forward(self, inputs, data_samples=None, mode='tensor'):
        return dict(loss=self.norm(inputs).mean())


torch.distributed.init_process_group('gloo')
rank = torch.distributed.get_rank()
batches = [[[0], [1], [2], [3], [4]], []]  # of each process
wrapper = DistributedDataParallel
if sys.argv[1] == 'fsdp':  # needs as many batches in each process
    batches = [[[0, 2, 3, 4]], [[1]]]
    wrapper = partial(MMFullyShardedDataParallel, device_id='cpu', auto_wrap_policy=ModuleWrapPolicy([nn.BatchNorm2d]))
runner = SimpleNamespace(model=wrapper(Model()).eval(), val_dataloader=SimpleNamespace(dataset=range(5)))
hook, metrics = ValLossHook(), {}
hook.before_val_epoch(runner)
with torch.no_grad():
    for batch in batches[rank]:
        images = [torch.full((1, 2, 2), float(value)) for value in batch]
        samples = [SegDataSample(gt_sem_seg=PixelData(data=torch.zeros(1, 2, 2))) for _ in batch]
        hook.after_val_iter(runner, 0, dict(inputs=images, data_samples=samples))
hook.after_val_epoch(runner, metrics)
print('loss', metrics['loss'])
torch.distributed.destroy_process_group()
"""


@pytest.mark.soak(keep=1)
@pytest.mark.parametrize('wrapper', ['ddp', 'fsdp'])
def test_processes_with_different_numbers_of_images(tmp_path, wrapper):
    """Five and none, or four and one in a batch."""
    (tmp_path / 'uneven.py').write_text(UNEVEN)
    common = ENVIRONMENT | dict(MASTER_ADDR='127.0.0.1', MASTER_PORT=free_port(), WORLD_SIZE='2', LOCAL_RANK='0')
    ranks = [
        start(tmp_path, tmp_path / 'uneven.py', wrapper, output=f'output{rank}.txt', RANK=rank, **common)
        for rank in '01'
    ]
    for rank in ranks:
        finish(rank)
    for rank in '01':
        (line,) = [line for line in (tmp_path / f'output{rank}.txt').read_text().splitlines() if 'loss' in line]
        assert float(line.split()[1]) == pytest.approx(2, rel=1e-4)  # mean of 0 to 4


def test_images_without_masks_are_named():
    with pytest.raises(ValueError, match=r'b\.png: no mask; ValLossHook needs masks'):
        with_mask_of_size(SegDataSample(metainfo=dict(img_path='b.png')), (4, 4))
