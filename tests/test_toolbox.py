"""Tools of mmsegmentation, mmpretrain, mmengine and mim on our configs as they are (the toolbox page)."""

import importlib.util
import inspect
import json
import os
import runpy
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import cv2
import mmpretrain
import mmseg
import numpy as np
import pytest
import torch
import yaml
from mmengine.analysis import FlopAnalyzer, get_model_complexity_info
from mmengine.config import Config
from mmengine.registry import MODELS
from pico import iou

from mmbirefnet.apis import BiRefNetInferencer
from mmbirefnet.datasets.preparation.synthetic import make_sample, write_dataset
from mmbirefnet.models.layers.dcn.layer import DCNv2
from mmbirefnet.zoo import get_info, list_models

ROOT = Path(__file__).parents[1]
SHORT = ('param_scheduler.0.end=1', 'param_scheduler.1.begin=1')  # the schedule of two iterations
NANO = ROOT / 'configs/birefnet_synthetic/birefnet_swin-nano_1xb4-6e_synthetic-256x256.py'


@pytest.fixture
def run(monkeypatch, tmp_path, capsys):
    """Runs a tool of a package in this process, in an empty folder, and returns what it prints."""
    monkeypatch.chdir(tmp_path)

    def run(package, tool, *words) -> str:
        path = Path(package.__file__).parent / '.mim/tools' / tool
        monkeypatch.setattr(sys, 'argv', [str(path), *map(str, words)])
        capsys.readouterr()
        runpy.run_path(str(path), run_name='__main__')
        return capsys.readouterr().out

    return run


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp('toolbox') / 'data'
    list(write_dataset(folder, {'DIS-TR': 8, 'DIS-VD': 2}, (64, 64), seed=0))
    return folder


def test_print_config(run, tmp_path):
    assert "type='mmbirefnet.BiRefHead'" in run(mmseg, 'misc/print_config.py', NANO)
    assert Config.fromfile(tmp_path / 'example.py').model == Config.fromfile(NANO).model


@pytest.mark.soak
def test_complexity_of_a_model():
    """What mmsegmentation's get_flops.py is for, which itself fails on every model with this mmengine."""
    model = MODELS.build(Config.fromfile(NANO).model).eval()
    found = get_model_complexity_info(model, (3, 64, 64), show_table=False, show_arch=False)
    assert found['params'] == sum(parameter.numel() for parameter in model.parameters())
    assert FlopAnalyzer(model, torch.rand(1, 3, 64, 64)).by_module()['decode_head.conv_logits'] == 32 * 16 * 16
    assert found['flops'] > 1e8


def test_flops_of_deformable_convolution():
    """Those of the two matrix products, by hand: pixels x taps x channels in x channels out."""
    layer = DCNv2(8, 16, 3, padding=1)
    flops = FlopAnalyzer(layer, torch.rand(1, 8, 20, 30))
    assert flops.by_module()['conv_offset'] == 20 * 30 * 9 * 8 * 27
    assert flops.total() == 20 * 30 * 9 * 8 * (27 + 16)


@pytest.mark.filterwarnings('ignore::torch.jit.TracerWarning')
def test_traced_deformable_convolution_is_the_same():
    torch.manual_seed(0)
    layer = DCNv2(4, 5, 3, padding=1)
    torch.nn.init.normal_(layer.conv_offset.weight, std=0.3)
    traced = torch.jit.trace(layer, torch.rand(1, 4, 12, 9))
    x = torch.rand(1, 4, 12, 9)
    torch.testing.assert_close(traced(x), layer(x))


@pytest.fixture(scope='module')
def trained(trained_checkpoint, data, tmp_path_factory):
    """Work directory of an epoch with mmsegmentation's train.py, from the small model that is trained already."""
    folder = tmp_path_factory.mktemp('toolbox') / 'work'
    options = [f'load_from={trained_checkpoint.checkpoint}', 'train_cfg.max_epochs=1', 'train_cfg.val_interval=1']
    options += ['optim_wrapper.optimizer.lr=1e-5', 'default_hooks.logger.interval=1', 'train_dataloader.num_workers=0']
    options += ['train_dataloader.persistent_workers=False', 'default_hooks.checkpoint.published_keys=meta,state_dict']
    options += ['default_hooks.checkpoint.interval=1', 'val_dataloader.num_workers=0']
    options += ['val_dataloader.persistent_workers=False', *SHORT]
    tool = Path(mmseg.__file__).parent / '.mim/tools/train.py'
    command = [sys.executable, tool, trained_checkpoint.config, '--work-dir', folder, '--cfg-options', *options]
    environment = dict(os.environ, PYTHONPATH=str(ROOT), MMBIREFNET_DATA=str(data), CUDA_VISIBLE_DEVICES='')
    done = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-1000:]
    return folder


def assert_works(config, checkpoint):
    drawn = make_sample(0, 'DIS-VD', 1, (96, 96))
    soft_map = BiRefNetInferencer(str(config), str(checkpoint), device='cpu')(drawn.image)
    assert iou(soft_map, drawn.mask) > 0.6


@pytest.mark.soak
def test_analyze_logs(run, trained, tmp_path):
    pytest.importorskip('seaborn', reason="needs seaborn, as mmsegmentation's analyze_logs.py does")
    (log,) = trained.glob('*/vis_data/scalars.json')
    words = [log, '--keys', 'loss', '--backend', 'agg', '--out', tmp_path / 'loss.png']
    assert f'plot curve of {log}, metric is loss' in run(mmseg, 'analysis_tools/analyze_logs.py', *words)
    assert cv2.imread(str(tmp_path / 'loss.png')) is not None
    losses = [line['loss'] for line in map(json.loads, log.read_text().splitlines()) if 'loss' in line]
    assert len(losses) == 2  # 8 images, batches of 4
    assert all(np.isfinite(losses))


@pytest.mark.soak
def test_publish_model_of_mmseg(run, trained, trained_checkpoint, tmp_path):
    run(mmseg, 'misc/publish_model.py', trained / 'epoch_1.pth', tmp_path / 'model.pth')
    until = time.monotonic() + 20  # the tool does not wait for its mv
    while not (published := [*tmp_path.glob('model-*.pth')]):
        assert time.monotonic() < until
        time.sleep(0.05)
    assert 'optimizer' not in torch.load(published[0])
    assert_works(trained_checkpoint.config, published[0])


@pytest.mark.soak
def test_publish_model_of_mmpretrain(run, trained, trained_checkpoint, tmp_path):
    run(mmpretrain, 'model_converters/publish_model.py', trained / 'epoch_1.pth', tmp_path / 'out.pth')
    (published,) = tmp_path.glob('out_*.pth')
    assert set(torch.load(published)) == {'meta', 'state_dict'}
    assert_works(trained_checkpoint.config, published)


@pytest.mark.soak
def test_published_keys_of_mmengine(trained, trained_checkpoint):
    (published,) = trained.glob('epoch_1-*.pth')
    assert set(torch.load(published)) == {'meta', 'state_dict'}
    assert_works(trained_checkpoint.config, published)


@pytest.mark.soak
def test_tta(run, data, trained_checkpoint, tmp_path, monkeypatch):
    """The mean over three sizes and mirroring, as the inferencer computes it from the same options."""
    monkeypatch.setenv('MMBIREFNET_DATA', str(data))
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '')
    options = ['test_dataloader.num_workers=0', 'test_dataloader.persistent_workers=False']
    words = [*trained_checkpoint, '--tta', '--out', tmp_path / 'maps', '--work-dir', tmp_path / 'work']
    run(mmseg, 'test.py', *words, '--cfg-options', *options)
    maps = sorted((tmp_path / 'maps').rglob('*.png'))
    assert len(maps) == 2
    inferencer = BiRefNetInferencer(*map(str, trained_checkpoint), device='cpu')
    for path in maps:
        expected = inferencer(
            str(data / 'DIS-VD/im' / f'{path.stem}.jpg'), input_size=256, scales=(0.875, 1, 1.125), flip=True
        )
        assert np.abs(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) / 255 - expected).max() < 2 / 255


@pytest.mark.soak
def test_visualization_cam(run, trained_checkpoint, tmp_path):
    cam = pytest.importorskip('pytorch_grad_cam', reason="needs grad-cam<1.5, as mmsegmentation's tool does")
    if 'use_cuda' not in inspect.signature(cam.GradCAM).parameters:
        pytest.skip('needs grad-cam<1.5')
    drawn = make_sample(0, 'DIS-VD', 1, (96, 96))
    cv2.imwrite(str(tmp_path / 'image.png'), drawn.image)
    config = tmp_path / 'cam.py'
    config.write_text(
        f'_base_ = {str(trained_checkpoint.config)!r}\ndata_preprocessor = _base_.model.data_preprocessor\n'
    )
    words = [tmp_path / 'image.png', config, trained_checkpoint.checkpoint, '--device', 'cpu', '--category-index', 0]
    words += ['--target-layers', 'decode_head.blocks["1"].reconstruction', '--cam-file', tmp_path / 'cam.png']
    run(mmseg, 'analysis_tools/visualization_cam.py', *words)
    assert cv2.imread(str(tmp_path / 'cam.png')).shape == (96, 96, 3)


def test_weights_in_the_metafiles():
    """Those of each released model, under a name of its own, which mim takes from the end of the URL."""
    entries = {}
    for path in ROOT.glob('configs/*/metafile.yml'):
        entries |= {model['Name']: model for model in yaml.safe_load(path.read_text())['Models']}
    with_weights = {name: model['Weights'] for name, model in entries.items() if 'Weights' in model}
    for name, url in with_weights.items():
        page = f'https://huggingface.co/{get_info(name).repository}/resolve/main/model.safetensors'
        assert url == f'{page}?download=true#/{name}.safetensors'
        assert entries[name]['Config'] == f'configs/{get_info(name).config}'
    assert {name for name in list_models() if name in entries and get_info(name).repository} == set(with_weights)


@pytest.fixture(scope='module')
def mim(data, tmp_path_factory):
    """Runs Python with mmbirefnet as pip installs it; mim does not find packages that are installed as editable."""
    if not importlib.util.find_spec('mim'):
        pytest.skip('needs openmim')
    folder = tmp_path_factory.mktemp('mim')
    words = ['-m', 'pip', 'wheel', '-q', '--no-deps', '--no-build-isolation', '-w', str(folder), str(ROOT)]
    subprocess.run([sys.executable, *words], check=True)
    zipfile.ZipFile(*folder.glob('*.whl')).extractall(folder / 'site')
    environment = dict(os.environ, PYTHONPATH=str(folder / 'site'), MMBIREFNET_DATA=str(data), CUDA_VISIBLE_DEVICES='')

    def run(*words) -> str:
        done = subprocess.run(
            [sys.executable, *map(str, words)], cwd=folder, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        return done.stdout

    return run


@pytest.mark.soak
def test_mim_download(mim, tmp_path):
    stand_in = 'download_from_file = lambda url, path, **options: open(path, "w").write(url)'
    code = f'import importlib; tool = importlib.import_module("mim.commands.download"); tool.{stand_in}\n'
    code += f'tool.download("mmbirefnet", ["BiRefNet_HR", "BiRefNet-COD"], {str(tmp_path)!r})'
    mim('-c', code)
    for name in ('BiRefNet_HR', 'BiRefNet-COD'):
        url = (tmp_path / f'{name}.safetensors').read_text()
        assert url.startswith(f'https://huggingface.co/ZhengPeng7/{name}/resolve/main/model.safetensors')
        assert Config.fromfile(tmp_path / f'{name}.py').model.type == 'mmbirefnet.BiRefNet'


@pytest.mark.soak
def test_mim_train_and_test(mim, tmp_path):
    options = ['--cfg-options', 'train_dataloader.num_workers=0', 'train_dataloader.persistent_workers=False']
    options += ['train_cfg.max_epochs=1', *SHORT]
    options += ['train_dataloader.dataset.pipeline.2.scale=(64,64)', 'test_dataloader.dataset.pipeline.1.scale=(64,64)']
    options += ['default_hooks.checkpoint.interval=1']
    mim('-m', 'mim', 'train', 'mmbirefnet', NANO.name, '--work-dir', tmp_path, '--gpus', 0, *options)
    assert (tmp_path / 'epoch_1.pth').is_file()
    words = ['--checkpoint', tmp_path / 'epoch_1.pth', '--work-dir', tmp_path / 'test', '--gpus', 0]
    options = ['--cfg-options', 'test_dataloader.dataset.pipeline.1.scale=(64,64)']
    mim('-m', 'mim', 'test', 'mmbirefnet', NANO.name, *words, *options)
    (scores,) = (tmp_path / 'test').glob('*/*.json')
    assert 0 <= json.loads(scores.read_text())['wFmeasure'] <= 1
