"""The inferencer with real models: maps of the test pipeline, configs, checkpoints, types."""

import copy
import itertools
import re
import shutil

import numpy as np
import pytest
import torch
from golden import model_config, reference_state_dict
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from pico import iou
from PIL import Image

from mmbirefnet.apis import BiRefNetInferencer
from mmbirefnet.apis.torch_backend import TorchBackend, find_config
from mmbirefnet.datasets.preparation.synthetic import make_sample, write_dataset
from mmbirefnet.fileio.checkpoints import write_checkpoint
from mmbirefnet.registry import DATASETS, MODELS
from mmbirefnet.utils import convert_birefnet_state_dict, load_birefnet_state_dict

NANO = 'birefnet_swin-nano_1xb4-6e_synthetic-256x256'
SWIN_L = 'birefnet_swin-l_8xb4-500e_dis5k-1024x1024'


@pytest.fixture(scope='module')
def model(trained_checkpoint):
    model = MODELS.build(Config.fromfile(trained_checkpoint.config).model)
    model.load_state_dict(load_birefnet_state_dict(trained_checkpoint.checkpoint))
    return model.eval()


@pytest.fixture(scope='module')
def inferencer(trained_checkpoint):
    return BiRefNetInferencer(*trained_checkpoint, device='cpu')


@pytest.mark.parametrize('fuse', [True, False])
def test_maps_are_those_of_the_test_pipeline(trained_checkpoint, model, tmp_path, fuse):
    """JPEG files through the config's data set, transforms and ``test_step``, and through the inferencer."""
    cfg = Config.fromfile(trained_checkpoint.config)
    for _ in write_dataset(tmp_path, {'DIS-VD': 3}, (130, 170), seed=1):
        pass
    dataset = DATASETS.build(cfg.test_dataloader.dataset | dict(data_root=str(tmp_path)))
    inferencer = BiRefNetInferencer(*trained_checkpoint, device='cpu', fuse=fuse)
    maps = inferencer(tmp_path / 'DIS-VD/im', tmp_path / 'out', save='mask', dtype='uint8', batch_size=2)
    assert len(maps) == len(dataset) == 3
    for index, levels in enumerate(maps):
        with torch.no_grad():
            (sample,) = model.test_step(pseudo_collate([dataset[index]]))
        expected = (sample.seg_logits.data[0].numpy() * 255).astype(np.uint8)
        assert levels.shape == expected.shape == (130, 170)
        assert np.ptp(expected) > 200
        assert np.abs(levels.astype(int) - expected).max() <= 1
        stem = sample.img_path.rsplit('/', 1)[1].removesuffix('.jpg')
        assert np.array_equal(np.asarray(Image.open(tmp_path / 'out' / f'{stem}.png')), levels)


def test_loading_draws_no_random_numbers(trained_checkpoint, model):
    """The parameters are all in the checkpoint; filling a large model with random ones first takes seconds."""
    before = torch.get_rng_state()
    loaded = TorchBackend(*trained_checkpoint, device='cpu', fuse=False).model
    assert torch.equal(torch.get_rng_state(), before)
    expected = dict(itertools.chain(model.named_parameters(), model.named_buffers()))
    found = dict(itertools.chain(loaded.named_parameters(), loaded.named_buffers()))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], value) for key, value in expected.items())


def test_backend_copies_a_given_model(model):
    before = copy.deepcopy(model.state_dict())
    assert TorchBackend(model, device='cpu').model is not model
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(model.state_dict()[key], value) for key, value in before.items())


def test_tta_is_that_of_the_config(trained_checkpoint, model, inferencer):
    """Mean of the probabilities of mirrored and scaled views, as SoftMapTTAModel takes it."""
    rgb = make_sample(0, 'DIS-VD', 1, (100, 120)).image[..., ::-1].copy()
    views = [
        inferencer(image, input_size=side, channel_order='rgb')[:, ::step]
        for side in (64, 96, 128)
        for image, step in ((rgb, 1), (rgb[:, ::-1].copy(), -1))
    ]
    result = inferencer(rgb, channel_order='rgb', flip=True, scales=(64 / 96, 1, 128 / 96))
    # A mirrored image is resized before or after it is mirrored, with a rounding of OpenCV's between.
    np.testing.assert_allclose(result, np.mean(views, 0), atol=0.02)


def test_normalisation_is_the_config_s(trained_checkpoint, inferencer):
    cfg = Config.fromfile(trained_checkpoint.config)
    cfg.model.data_preprocessor.update(bgr_to_rgb=False, mean=[1.0, 2, 3], std=[10.0, 20, 30])
    model = MODELS.build(cfg.model)
    model.load_state_dict(load_birefnet_state_dict(trained_checkpoint.checkpoint))
    image = make_sample(0, 'DIS-VD', 0, (96, 96)).image
    soft_map = BiRefNetInferencer(model, device='cpu')(image, input_size=96)
    bgr = (torch.from_numpy(image).permute(2, 0, 1)[None].float() - torch.tensor([1.0, 2, 3]).view(3, 1, 1)) / (
        torch.tensor([10.0, 20, 30]).view(3, 1, 1)
    )
    with torch.no_grad():
        expected = model.eval()(bgr, mode='tensor').sigmoid()[0, 0].numpy()
    np.testing.assert_allclose(soft_map, expected, atol=1e-4)
    assert np.abs(soft_map - inferencer(image)).max() > 0.01


@pytest.mark.skipif(not hasattr(torch.cpu, 'get_capabilities'), reason='this torch does not report what the CPU has')
@pytest.mark.parametrize(
    ('found', 'expected'),
    [
        ({'avx512_bf16': True}, torch.bfloat16),
        ({'amx_bf16': True}, torch.bfloat16),
        ({'avx2': True, 'avx512_bf16': False, 'amx_bf16': False}, torch.float32),
        ({}, torch.float32),  # as on ARM, whose capabilities have other names
    ],
)
def test_auto_takes_bfloat16_where_the_cpu_has_it(trained_checkpoint, monkeypatch, found, expected):
    monkeypatch.setattr(torch.cpu, 'get_capabilities', lambda: found)
    assert TorchBackend(*trained_checkpoint, device='cpu', dtype='auto').dtype == expected


@pytest.mark.parametrize('dtype', ['bfloat16', 'float16'])
def test_mixed_precision(trained_checkpoint, inferencer, dtype):
    if dtype == 'float16' and torch.__version__ < '2.3':
        with pytest.raises(ValueError, match=r"dtype='float16' cannot be used on cpu with torch 2\.[12]"):
            BiRefNetInferencer(*trained_checkpoint, device='cpu', dtype=dtype)
        return
    sample = make_sample(0, 'DIS-VD', 6, (96, 96))
    full = inferencer(sample.image)
    mixed = BiRefNetInferencer(*trained_checkpoint, device='cpu', dtype=dtype)(sample.image)
    assert mixed.dtype == np.float32
    assert 1e-7 < np.abs(mixed - full).mean() < 0.005
    assert iou(mixed, full * 255) > 0.95


@pytest.mark.soak
def test_ways_to_name_a_model(trained_checkpoint, model, inferencer, monkeypatch):
    image = make_sample(0, 'DIS-VD', 3, (96, 96)).image
    expected = inferencer(image)
    config, checkpoint = trained_checkpoint
    for arguments in (
        (str(config), str(checkpoint)),
        (Config.fromfile(config), checkpoint),
        (MODELS.build(Config.fromfile(config).model), checkpoint),
        (model,),
    ):
        other = BiRefNetInferencer(*arguments, device='cpu')
        np.testing.assert_allclose(other(image, input_size=96), expected, atol=1e-6)
    monkeypatch.setenv('MMBIREFNET_CHECKPOINT', str(checkpoint))
    np.testing.assert_allclose(BiRefNetInferencer(config, device='cpu')(image), expected, atol=1e-6)
    assert find_config(SWIN_L).name == f'{SWIN_L}.py'
    assert find_config(SWIN_L + '.py') == find_config(find_config(SWIN_L))


@pytest.fixture(scope='module')
def released(tmp_path_factory):
    """A checkpoint under the reference's names: Swin-T, seeded parameters."""
    path = tmp_path_factory.mktemp('released') / 'BiRefNet-swin_t.pth'
    torch.save(reference_state_dict(), path)
    return path


def test_config_of_the_caller_stays_as_it_is(trained_checkpoint):
    cfg = Config.fromfile(trained_checkpoint.config)
    cfg.model.backbone.init_cfg = dict(type='Pretrained', checkpoint='not_there.pth')
    before = cfg.to_dict()
    BiRefNetInferencer(cfg, trained_checkpoint.checkpoint, device='cpu')
    assert cfg.to_dict() == before
    assert before['model']['backbone']['init_cfg']['checkpoint'] == 'not_there.pth'


@pytest.mark.soak
def test_architecture_is_read_from_a_released_checkpoint(released):
    model = MODELS.build(model_config())
    model.load_state_dict(convert_birefnet_state_dict(reference_state_dict()))
    image = make_sample(0, 'DIS-VD', 0, (64, 64)).image
    expected = BiRefNetInferencer(model, device='cpu')(image, input_size=64)
    assert np.ptp(expected) > 0.1
    for arguments in ((released,), ('birefnet_swin-t_8xb4-500e_dis5k-1024x1024', released)):
        inferencer = BiRefNetInferencer(*arguments, device='cpu')
        assert inferencer.backend.input_size == (1024, 1024)
        np.testing.assert_allclose(inferencer(image, input_size=64), expected, atol=1e-5)


@pytest.fixture
def logged(monkeypatch) -> list[str]:
    """Warnings and other messages about the size."""
    texts = []
    monkeypatch.setattr(
        'mmbirefnet.apis.torch_backend.print_log', lambda text, *_: texts.append(text) if 'size' in text else None
    )
    return texts


@pytest.mark.parametrize(
    ('name', 'size', 'reason'),
    [
        ('BiRefNet_lite-general-2K-epoch_232.pth', (1440, 2560), 'the training size of BiRefNet_lite-2K'),
        ('BiRefNet_HR/pytorch_model.bin', (2048, 2048), 'the training size of BiRefNet_HR'),
        ('mine.ckpt', (1024, 1024), 'is a guess: .*input_size'),
    ],
)
def test_released_models_run_at_the_size_of_their_training(released, tmp_path, logged, name, size, reason):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.symlink_to(released)
    source = path.parent if path.parent != tmp_path else path
    backend = BiRefNetInferencer(source, device='cpu', fuse=False).backend
    assert (backend.input_size, backend.side_range) == (size, None)
    (text,) = logged
    assert re.search(rf'input size: {size[0]}x{size[1]} \(height x width\),? {reason}', text)


def test_dynamic_models_run_at_the_size_of_the_image(released, tmp_path, monkeypatch):
    path = tmp_path / 'BiRefNet_dynamic.pth'
    path.symlink_to(released)
    inferencer = BiRefNetInferencer(path, device='cpu', fuse=False)
    shapes = []

    def record(images):
        shapes.append(images.shape[1:3])
        return np.zeros(images.shape[:3], np.float32)

    record.input_size, record.side_range = inferencer.backend.input_size, inferencer.backend.side_range
    record.fixed_size, record.max_batch, record.name = False, None, 'recorder'
    image = np.zeros((300, 420, 3), np.uint8)
    recorder = BiRefNetInferencer(backend=record)
    assert recorder(image).shape == (300, 420)
    recorder(image, input_size=64)
    assert shapes == [(288, 416), (64, 64)]


@pytest.mark.soak
def test_the_meta_and_the_config_give_the_size(released, tmp_path, logged):
    meta = dict(model_name='BiRefNet_lite-2K', input_size=(1440, 2560), crop_order='columns')
    write_checkpoint(tmp_path / 'mine.pth', load_birefnet_state_dict(released), meta)
    options = dict(device='cpu', fuse=False)
    assert BiRefNetInferencer(tmp_path / 'mine.pth', **options).backend.input_size == (1440, 2560)
    # A config that is given has the last word, but not in silence.
    config = 'birefnet_swin-t_8xb4-500e_dis5k-1024x1024'
    assert BiRefNetInferencer(config, tmp_path / 'mine.pth', **options).backend.input_size == (1024, 1024)
    assert re.search('the config tests at 1024x1024 .* the model was trained at 1440x2560', logged[1])


@pytest.mark.soak
def test_the_order_of_the_crops_can_be_given(released):
    state = {
        order: BiRefNetInferencer(released, device='cpu', fuse=False, crop_order=order).backend.model.state_dict()
        for order in ('rows', 'columns')
    }
    for order, found in state.items():
        expected = convert_birefnet_state_dict(reference_state_dict(), order)
        key = 'decode_head.blocks.4.inward.conv_in.weight'
        assert torch.equal(found[key], expected[key])


def test_errors_name_what_is_wrong(trained_checkpoint, released, tmp_path, monkeypatch):
    monkeypatch.delenv('MMBIREFNET_CHECKPOINT', raising=False)
    config, checkpoint = trained_checkpoint
    for model in (config, NANO):
        with pytest.raises(
            ValueError, match='no checkpoint: .*--checkpoint.*MMBIREFNET_CHECKPOINT.*mmbirefnet models'
        ) as caught:
            BiRefNetInferencer(model)
        assert '\n' not in str(caught.value)
    with pytest.raises(FileNotFoundError, match=r'gone\.pth: no such file'):
        BiRefNetInferencer(config, tmp_path / 'gone.pth')
    monkeypatch.setenv('MMBIREFNET_CHECKPOINT', 'gone2.pth')
    with pytest.raises(
        FileNotFoundError, match=r'gone2\.pth: no such file \(from the environment variable MMBIREFNET_CHECKPOINT'
    ):
        BiRefNetInferencer()
    with pytest.raises(FileNotFoundError, match=f'birefnet_huge: neither a config file nor the name .*{NANO}'):
        BiRefNetInferencer('birefnet_huge', checkpoint)
    with pytest.raises(ValueError, match=r'birefnet_pico\.pth: does not fit the model: .*in the file'):
        BiRefNetInferencer(NANO, checkpoint)
    with pytest.raises(ValueError, match=r'birefnet_pico\.pth: .*Swin.*--config'):
        BiRefNetInferencer(None, checkpoint)
    for options in (dict(device='gpu'), dict(dtype='int8')):
        with pytest.raises(ValueError, match=f"{next(iter(options))}='"):
            BiRefNetInferencer(config, checkpoint, **options)
    shutil.copy(config, tmp_path / 'a.pth')
    with pytest.raises(ValueError, match=r'a\.pth: damaged'):
        BiRefNetInferencer(config, tmp_path / 'a.pth')


def test_nothing_but_tensors_is_unpickled(tmp_path):
    class Evil:
        def __reduce__(self):
            return open, (str(tmp_path / 'owned'), 'w')

    torch.save(Evil(), tmp_path / 'evil.pth')
    with pytest.raises(ValueError, match='not unpickled'):
        BiRefNetInferencer(None, tmp_path / 'evil.pth')
    assert not (tmp_path / 'owned').exists()
