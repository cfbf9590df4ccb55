"""A size for each batch: the same on all processes, for any number of workers, and after a resumption."""

import json
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.dataset import DefaultSampler, InfiniteSampler
from mmengine.hooks import DistSamplerSeedHook
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import resize

from mmbirefnet.datasets import DynamicSizeBatchSampler
from mmbirefnet.registry import TRANSFORMS

CONFIG = Path(__file__).parents[2] / 'configs/_base_/datasets/general_256x256-2304x2304.py'


def make_sampler(seed=7, epoch=0, images=40, **options):
    sampler = DefaultSampler(range(images), shuffle=True, seed=seed)
    sampler.set_epoch(epoch)
    return DynamicSizeBatchSampler(sampler, **{'batch_size': 4, **options})


def sizes_of(batches):
    """The size of each batch, which all its indices have."""
    (sizes,) = zip(*({size for _, size in batch} for batch in batches), strict=True)
    return list(sizes)


@pytest.mark.soak
def test_sizes_are_evenly_drawn_multiples_of_32():
    sampler = make_sampler()
    sizes = np.array([sampler.size_of(0, batch) for batch in range(20000)])
    for side in sizes.T:
        values, counts = np.unique(side, return_counts=True)
        np.testing.assert_array_equal(values, np.arange(256, 2304 + 1, 32))
        # 307.7 of each expected, standard deviation 17.4
        assert 220 < counts.min() <= counts.max() < 400
    assert abs(np.corrcoef(sizes.T)[0, 1]) < 0.03


def test_sizes_depend_on_seed_epoch_and_batch_alone():
    sizes = sizes_of(make_sampler())
    assert len(sizes) == 10
    assert len(set(sizes)) > 8
    assert sizes_of(make_sampler()) == sizes
    assert sizes_of(make_sampler(epoch=1)) != sizes
    assert sizes_of(make_sampler(seed=8)) != sizes
    # Neither on the images in a batch: as many batches of one image have the same sizes.
    assert sizes_of(make_sampler(images=10, batch_size=1)) == sizes


def test_batches_are_those_of_the_sampler():
    sampler = make_sampler(images=10, drop_last=True)
    expected = list(DefaultSampler(range(10), shuffle=True, seed=7))
    assert [index for batch in sampler for index, _ in batch] == expected[:8]
    assert len(sampler) == 2
    assert len(list(make_sampler(images=10))) == 3


def test_width_and_height_have_their_own_bounds():
    sampler = make_sampler(min_size=(64, 16), max_size=(96, 16), divisor=16)
    assert {sampler.size_of(0, batch) for batch in range(50)} == {(64, 16), (80, 16), (96, 16)}


@pytest.mark.parametrize('sizes', [{'min_size': (250, 256)}, {'max_size': (2304, 2000)}, {'max_size': (224, 2304)}])
def test_wrong_bounds(sizes):
    with pytest.raises(ValueError, match='multiples of 32'):
        make_sampler(**sizes)


def test_infinite_sampler_counts_batches_on():
    batches = iter(DynamicSizeBatchSampler(InfiniteSampler(range(3), seed=1), batch_size=1))
    assert len(set(sizes_of([next(batches) for _ in range(12)]))) > 10


def test_pipeline_without_a_size():
    with pytest.raises(KeyError, match='DynamicSizeBatchSampler'):
        TRANSFORMS.build(dict(type='mmbirefnet.ResizeToBatch'))({'img': np.zeros((4, 4, 3), np.uint8)})


def resize_to_batch(image, mask, size):
    results = {'img': image, 'gt_seg_map': mask, 'seg_fields': ['gt_seg_map'], 'batch_scale': size}
    return TRANSFORMS.build(dict(type='mmbirefnet.ResizeToBatch'))(results)


@pytest.mark.parametrize('size', [(96, 64), (32, 192), (320, 256), (800, 32)])
def test_resize_is_torchvisions_of_pil_images(size):
    """Exactly; and to one gray level that of torch, whose weights are not rounded to 8 bits."""
    rng = np.random.default_rng(1)
    image, mask = rng.integers(0, 256, (200, 310, 3), np.uint8), rng.integers(0, 256, (200, 310), np.uint8)
    results = resize_to_batch(image, mask, size)
    assert (results['img_shape'], results['scale_factor']) == (size[::-1], (size[0] / 310, size[1] / 200))
    for key, pixels in (('img', image), ('gt_seg_map', mask)):
        expected = resize(Image.fromarray(pixels), size[::-1], InterpolationMode.BILINEAR, antialias=True)
        np.testing.assert_array_equal(results[key], np.asarray(expected))
        channels = torch.from_numpy(pixels.reshape(*pixels.shape[:2], -1)).float().permute(2, 0, 1)[None]
        exact = F.interpolate(channels, size[::-1], mode='bilinear', antialias=True)[0].permute(1, 2, 0)
        assert np.abs(results[key].reshape(exact.shape) - exact.numpy()).max() < 1.01
    # A mask of floats, which 16-bit files give, has no levels to round to.
    mask = mask / np.float32(255)
    soft = resize_to_batch(image, mask, size)['gt_seg_map']
    channels = torch.from_numpy(mask).double()[None, None]
    exact = F.interpolate(channels, size[::-1], mode='bilinear', antialias=True)[0, 0]
    assert soft.dtype == np.float32
    np.testing.assert_allclose(soft, exact, rtol=0, atol=1e-6)


def test_downscaling_averages_a_dark_pixel():
    """Along an axis, the kernel at an eighth of the size is a triangle of 8 pixels to either side, of height 1/8."""
    image = np.full((256, 256, 3), 255, np.uint8)
    image[100, 100] = 0  # half a pixel from the middle of the output pixel 12, where the triangle is 7.5/8 as high
    resized = resize_to_batch(image, image[..., 0], (32, 32))['img']
    assert resized[12, 12, 0] == round(255 * (1 - (7.5 / 64) ** 2))


def loader_config(root, workers=0):
    """The config's loader with small sizes and one set."""
    loader = Config.fromfile(CONFIG).train_dataloader
    loader.batch_sampler.update(min_size=(32, 32), max_size=(160, 160))
    loader.dataset.update(data_root=str(root), sets=['DIS-TR'])
    loader.update(batch_size=2, num_workers=workers, persistent_workers=workers > 0)
    return loader


def build(root, workers=0):
    with DefaultScope.overwrite_default_scope('mmseg'):
        return Runner.build_dataloader(loader_config(root, workers), seed=7)


def start_epoch(loader, epoch):
    runner = SimpleNamespace(train_loop=SimpleNamespace(dataloader=loader), epoch=epoch)
    DistSamplerSeedHook().before_train_epoch(runner)


def batch_sizes(loader):
    """(width, height) of each batch's images, and the stems."""
    sizes, stems = [], []
    for batch in loader:
        (shape,) = {tuple(image.shape[1:]) for image in batch['inputs']}
        assert all(sample.gt_sem_seg.data.shape == (1, *shape) for sample in batch['data_samples'])
        sizes.append((shape[1], shape[0]))
        stems += [Path(sample.img_path).stem for sample in batch['data_samples']]
    return sizes, stems


@pytest.fixture
def root(tmp_path, write_pair):
    for index in range(12):
        write_pair(tmp_path / 'DIS5K/DIS-TR', f'{index:02d}')
    return tmp_path


def test_loader_resumes_as_if_never_stopped(root):
    loader = build(root)
    epochs = []
    for epoch in range(3):
        start_epoch(loader, epoch)
        epochs.append(batch_sizes(loader))
    assert [len(sizes) for sizes, _ in epochs] == [6, 6, 6]
    assert epochs[0][0] != epochs[1][0] != epochs[2][0]
    assert epochs[2][0] == [loader.batch_sampler.size_of(2, batch) for batch in range(6)]
    resumed = build(root, workers=2)
    for epoch in (1, 2):
        start_epoch(resumed, epoch)
        assert batch_sizes(resumed) == epochs[epoch]


def _rank(rank, ranks, root):
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(ranks))
    torch.distributed.init_process_group('gloo', init_method=f'file://{root}/store', rank=rank, world_size=ranks)
    torch.manual_seed(rank)
    np.random.seed(rank)  # noqa: NPY002
    loader = build(root)
    start_epoch(loader, 5)
    Path(root, f'{rank}.json').write_text(json.dumps(batch_sizes(loader)))
    torch.distributed.destroy_process_group()


def test_two_processes_have_the_same_sizes_and_other_images(root):
    torch.multiprocessing.start_processes(_rank, (2, str(root)), nprocs=2, start_method='fork')
    (sizes, stems), (other_sizes, other_stems) = (json.loads((root / f'{rank}.json').read_text()) for rank in (0, 1))
    assert sizes == other_sizes
    assert len(sizes) == len({tuple(size) for size in sizes}) == 3
    assert sorted(stems + other_stems) == [f'{index:02d}' for index in range(12)]
