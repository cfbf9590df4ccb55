import copy
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS
from mmengine.runner import Runner, set_random_seed
from mmseg.models import SegDataPreProcessor

CONFIG_DIR = Path(__file__).parents[2] / 'configs/_base_/datasets'
CONFIGS = ['dis5k_1024x1024.py', 'synthetic_256x256.py']
SIDE = 32
IN_PROCESS = {'num_workers': 0, 'persistent_workers': False}


@pytest.fixture
def root(tmp_path, write_pair):
    """DIS-TR and DIS-VD, six pairs each."""
    for set_name in ('DIS-TR', 'DIS-VD'):
        for index in range(6):
            write_pair(tmp_path / set_name, f'1#Zoo#1#Ant#{index}')
    return tmp_path


def config_at(name, root, monkeypatch):
    """A data set config of this repository, with images of 32x32 to be quick."""
    monkeypatch.setenv('MMBIREFNET_DATA', str(root))
    config = Config.fromfile(CONFIG_DIR / name)
    for loader in (config.train_dataloader, config.val_dataloader):
        for step in loader.dataset.pipeline:
            if step.type == 'mmbirefnet.Resize':
                assert step.scale == config.image_size
                step.scale = (SIDE, SIDE)
    return config


@pytest.mark.parametrize('name', CONFIGS)
def test_config_trains_on_soft_masks_and_tests_at_the_original_size(name, root, monkeypatch):
    config = config_at(name, root, monkeypatch)
    side = int(name.removesuffix('.py').rsplit('x', 1)[1])
    assert config.image_size == (side, side)

    batch = next(iter(Runner.build_dataloader({**config.train_dataloader, **IN_PROCESS, 'batch_size': 2})))
    assert [image.shape for image in batch['inputs']] == [(3, SIDE, SIDE)] * 2
    for sample in batch['data_samples']:
        assert sample.gt_sem_seg.data.shape == (1, SIDE, SIDE)
        assert len(sample.gt_sem_seg.data.unique()) > 50
        assert (sample.set_name, sample.class_label) == ('DIS-TR', 1)

    loader = Runner.build_dataloader({**config.val_dataloader, **IN_PROCESS})
    assert len(loader) == 6
    for index, batch in enumerate(loader):
        (image,), (sample,) = batch['inputs'], batch['data_samples']
        stem = f'1#Zoo#1#Ant#{index}'
        photograph = cv2.imread(str(root / f'DIS-VD/im/{stem}.jpg'))
        expected = cv2.resize(photograph, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR)
        np.testing.assert_array_equal(image.permute(1, 2, 0), expected)
        mask = cv2.imread(str(root / f'DIS-VD/gt/{stem}.png'), cv2.IMREAD_GRAYSCALE)
        np.testing.assert_array_equal(sample.gt_sem_seg.data[0], mask / np.float32(255))
        assert (sample.ori_shape, sample.img_shape, sample.set_name) == ((24, 32), (SIDE, SIDE), 'DIS-VD')


def test_training_image_is_resized_by_opencv(root, monkeypatch):
    config = config_at('dis5k_1024x1024.py', root, monkeypatch)
    types = ('mmbirefnet.LoadImage', 'mmbirefnet.LoadMask', 'mmbirefnet.Resize', 'mmbirefnet.PackDichotomousInputs')
    dataset = config.train_dataloader.dataset
    dataset.pipeline = [step for step in dataset.pipeline if step.type in types]
    item = DATASETS.build(dataset)[3]
    stem = str(root / 'DIS-TR/%s/1#Zoo#1#Ant#3')
    image = cv2.resize(cv2.imread(f'{stem % "im"}.jpg'), (SIDE, SIDE), interpolation=cv2.INTER_LINEAR)
    mask = cv2.resize(cv2.imread(f'{stem % "gt"}.png', cv2.IMREAD_GRAYSCALE), (SIDE, SIDE))
    np.testing.assert_array_equal(item['inputs'].permute(1, 2, 0), image)
    np.testing.assert_array_equal(item['data_samples'].gt_sem_seg.data[0], mask / np.float32(255))


def test_test_time_augmentation_sees_every_scale_and_side(root, monkeypatch):
    config = config_at('dis5k_1024x1024.py', root, monkeypatch)
    dataset = copy.deepcopy(config.val_dataloader.dataset)
    scales, flips = config.tta_pipeline[1].transforms[:2]
    for step, side in zip(scales, (16, 32, 64), strict=True):
        step.scale = (side, side)
    dataset.pipeline = config.tta_pipeline
    item = DATASETS.build(dataset)[0]
    assert [image.shape[-1] for image in item['inputs']] == [16, 16, 32, 32, 64, 64]
    assert len(flips) == 2
    for plain, flipped in zip(item['inputs'][::2], item['inputs'][1::2], strict=True):
        assert torch.equal(plain.flip(-1), flipped)
    assert [sample.flip for sample in item['data_samples']] == [False, True] * 3
    masks = [sample.gt_sem_seg.data for sample in item['data_samples']]
    assert all(torch.equal(mask, masks[0]) for mask in masks)
    assert masks[0].shape == (1, 24, 32)


def test_soft_masks_pass_mmsegs_preprocessor(root, monkeypatch):
    config = config_at('dis5k_1024x1024.py', root, monkeypatch)
    batch = next(iter(Runner.build_dataloader({**config.train_dataloader, **IN_PROCESS, 'batch_size': 3})))
    masks = [sample.gt_sem_seg.data.clone() for sample in batch['data_samples']]
    preprocessor = SegDataPreProcessor(
        mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True, size=(SIDE, SIDE), pad_val=0
    )
    out = preprocessor(batch, training=True)
    assert out['inputs'].shape == (3, 3, SIDE, SIDE)
    for mask, sample in zip(masks, out['data_samples'], strict=True):
        torch.testing.assert_close(sample.gt_sem_seg.data, mask, rtol=0, atol=0)


class TestRandomness:
    """Eight copies of one pair, so that items differ by their augmentation alone."""

    @pytest.fixture
    def loader_config(self, tmp_path, write_pair, monkeypatch):
        image, mask = (np.random.default_rng(1).integers(0, 256, shape, np.uint8) for shape in ((24, 32, 3), (24, 32)))
        for index in range(8):
            write_pair(tmp_path / 'DIS-TR', f'{index}', image, mask, image_suffix='.png')
        loader = config_at('dis5k_1024x1024.py', tmp_path, monkeypatch).train_dataloader
        loader.sampler.shuffle = False
        for step in loader.dataset.pipeline:
            if step.type == 'mmbirefnet.SaltAndPepper':
                step.ratio = 0.1
        return {**loader, 'batch_size': 1}

    def epochs(self, loader_config, seed, workers, count=1):
        set_random_seed(seed)
        config = {**loader_config, 'num_workers': workers, 'persistent_workers': workers > 0}
        loader = Runner.build_dataloader(config, seed=seed)
        return [torch.stack([batch['inputs'][0] for batch in loader]) for _ in range(count)]

    @pytest.mark.parametrize('workers', [0, 2])
    def test_seed_decides(self, loader_config, workers):
        first, second = self.epochs(loader_config, 5, workers, count=2)
        again, _ = self.epochs(loader_config, 5, workers, count=2)
        (other,) = self.epochs(loader_config, 6, workers)
        assert torch.equal(first, again)
        # No two images are equal: not within an epoch (nor of two workers), not of two epochs, not of two seeds.
        images = torch.cat([first, second] + ([other] if workers == 0 else [])).flatten(1)
        assert len(images.unique(dim=0)) == len(images)
        assert not torch.equal(first, other)
