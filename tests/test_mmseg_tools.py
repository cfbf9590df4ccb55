"""Our configs in the tools and functions of mmengine and mmsegmentation themselves."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import cv2
import mmseg
import numpy as np
import pytest
import torch
from doc_blocks import blocks
from mmengine import hub
from mmengine.config import Config
from mmengine.registry import DATASETS, MODELS, DefaultScope
from mmseg.apis import MMSegInferencer, inference_model, init_model
from pico import iou

import mmbirefnet.models  # noqa: F401
from mmbirefnet.apis import BiRefNetInferencer
from mmbirefnet.datasets.preparation.synthetic import make_sample, write_dataset

ROOT = Path(__file__).parents[1]
NAME = 'birefnet_synthetic/birefnet_swin-nano_1xb4-6e_synthetic-256x256.py'


@pytest.fixture(scope='module')
def sample(tmp_path_factory):
    """An image that the small model was not trained on: path, pixels (BGR) and mask."""
    drawn = make_sample(0, 'DIS-VD', 1, (96, 96))
    path = tmp_path_factory.mktemp('inferencer') / 'image.png'
    cv2.imwrite(str(path), drawn.image)
    return path, drawn.image, drawn.mask


def test_mmseg_inferencer(trained_checkpoint, sample):
    path, image, mask = sample
    inferencer = MMSegInferencer(str(trained_checkpoint.config), str(trained_checkpoint.checkpoint), device='cpu')
    result = inferencer(str(path), return_datasamples=True)
    probability = result.seg_logits.data[0].numpy()
    assert iou(probability, mask) > 0.6
    own = BiRefNetInferencer(*map(str, trained_checkpoint), device='cpu')(str(path))
    np.testing.assert_allclose(probability, own, atol=2e-3)

    from_array = inferencer(image, return_vis=True)
    np.testing.assert_array_equal(from_array['predictions'], probability > 0.5)
    assert from_array['visualization'].shape[:2] == (96, 2 * 96 + 4)
    shown = from_array['visualization'][:, 100:, 0].astype(float) / 255
    np.testing.assert_allclose(shown, probability, atol=0.5 / 255)


def test_mmseg_inference_model(trained_checkpoint, sample):
    path, image, mask = sample
    model = init_model(str(trained_checkpoint.config), str(trained_checkpoint.checkpoint), device='cpu')
    from_file, from_array = inference_model(model, str(path)), inference_model(model, image)
    assert iou(from_file.seg_logits.data[0].numpy(), mask) > 0.6
    assert torch.equal(from_file.seg_logits.data, from_array.seg_logits.data)


def test_mmseg_browses_our_data(tmp_path, monkeypatch):
    list(write_dataset(tmp_path / 'data', {'DIS-TR': 2, 'DIS-VD': 1}, (64, 64), seed=0))
    monkeypatch.setenv('MMBIREFNET_DATA', str(tmp_path / 'data'))
    tool = Path(mmseg.__file__).parent / '.mim/tools/analysis_tools/browse_dataset.py'
    words = [str(tool), str(ROOT / 'configs' / NAME), '--output-dir', str(tmp_path / 'out'), '--not-show']
    (tmp_path / 'out').mkdir()
    monkeypatch.setattr(sys, 'argv', words)
    runpy.run_path(str(tool), run_name='__main__')
    drawn = sorted((tmp_path / 'out').iterdir())
    assert len(drawn) == 2
    assert cv2.imread(str(drawn[0])).shape == (256, 2 * 256 + 4, 3)  # image and mask


def test_configs_by_the_name_of_the_package(tmp_path, monkeypatch):
    monkeypatch.setenv('MMBIREFNET_DATA', str(tmp_path / 'data'))
    list(write_dataset(tmp_path / 'data', {'DIS-TR': 1}, (64, 64), seed=0))
    own = Config.fromfile(ROOT / 'configs' / NAME)
    assert hub.get_config(f'mmbirefnet::{NAME}').model == own.model

    path = tmp_path / 'mine.py'
    path.write_text(f"_base_ = 'mmbirefnet::{NAME}'\nmodel = dict(decode_head=dict(with_cp=True))\n")
    cfg = Config.fromfile(path)
    with DefaultScope.overwrite_default_scope('mmseg'):
        model, wanted = MODELS.build(cfg.model), MODELS.build(own.model)
        assert model.decode_head.with_cp
        shapes = [{name: p.shape for name, p in each.state_dict().items()} for each in (model, wanted)]
        assert shapes[0] == shapes[1]
        assert DATASETS.build(cfg.train_dataloader.dataset)[0]['inputs'].shape == (3, 256, 256)


def test_hub_get_model():
    before = DefaultScope.get_current_instance().scope_name
    model = hub.get_model(f'mmbirefnet::{NAME}')
    assert type(model) is mmbirefnet.models.BiRefNet
    assert DefaultScope.get_current_instance().scope_name == before


@pytest.mark.soak
def test_our_tools_take_a_config_based_on_the_package(tmp_path):
    path = tmp_path / 'mine.py'
    path.write_text(f"_base_ = 'mmbirefnet::{NAME}'\n")
    command = [sys.executable, str(ROOT / 'tools/train.py'), str(path), '--cfg-options', f'data_root={tmp_path}/no set']
    environment = dict(os.environ, PYTHONPATH=str(ROOT), CUDA_VISIBLE_DEVICES='')
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert f'no folder of images at {tmp_path}/no set/DIS-TR/im' in done.stderr


def test_example_of_the_page(tmp_path):
    (example,) = blocks('docs/en/advanced_guides/toolbox.md', 'toolbox')
    cv2.imwrite(str(tmp_path / 'image.jpg'), np.full((40, 50, 3), 90, np.uint8))
    found = {}
    exec(example.replace('image.jpg', str(tmp_path / 'image.jpg')).replace("f'configs/", f"f'{ROOT}/configs/"), found)
    assert found['probability'].shape == (40, 50)
    assert torch.equal(found['result'].pred_sem_seg.data[0], (found['probability'] > 0.5).float())
    assert found['cfg'].model.type == 'mmbirefnet.BiRefNet'


def test_hub_names_configs_without_parameters():
    """mmengine's own error says to check the metafile, without a name."""
    name = 'birefnet/birefnet_swin-t_8xb4-500e_dis5k-1024x1024.py'
    for path in (f'mmbirefnet::{name}', 'mmbirefnet::_base_/default_runtime.py'):
        with pytest.raises(
            ValueError, match=f'{path}: no parameters are published .*pretrained=False, or .*birefnet_hr/'
        ):
            hub.get_model(path, pretrained=True)
