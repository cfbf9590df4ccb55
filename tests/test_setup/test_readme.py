"""What the README shows is run."""

import re
from pathlib import Path

import cv2
import pytest
import torch
from doc_blocks import blocks, commands
from mmengine.config import ConfigDict
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from PIL import Image

from mmbirefnet import registry
from mmbirefnet.apis import BiRefNetInferencer
from mmbirefnet.cli.main import main
from mmbirefnet.datasets.preparation.synthetic import make_sample
from mmbirefnet.registry import MODELS

ROOT = Path(__file__).parents[2]
README = (ROOT / 'README.md').read_text('utf-8')


def train_and_test(model) -> None:
    """One loss with gradients everywhere, one soft map."""
    samples = []
    for _ in range(2):
        sample = SegDataSample(metainfo=dict(ori_shape=(50, 70), img_shape=(64, 64)))
        sample.gt_sem_seg = PixelData(data=(torch.rand(1, 64, 64) > 0.5).float())
        samples.append(sample)
    batch = dict(inputs=[torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8) for _ in samples], data_samples=samples)
    model.train()
    losses = model(**model.data_preprocessor(batch, True), mode='loss')
    model.parse_losses(losses)[0].backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
    (prediction, _) = model.eval().test_step(batch)
    assert prediction.seg_logits.data.shape == (1, 50, 70)
    assert prediction.seg_logits.data.min() >= 0
    assert prediction.seg_logits.data.max() <= 1


def test_inference(trained_checkpoint, tmp_path, monkeypatch):
    config, checkpoint = trained_checkpoint
    (tmp_path / 'photos').mkdir()
    for name in ('photo.jpg', 'photos/a.jpg', 'photos/b.jpg'):
        cv2.imwrite(str(tmp_path / name), make_sample(0, 'DIS-VD', 0, (80, 80)).image)
    monkeypatch.chdir(tmp_path)
    # The small model is none of the released architectures, which need no config.
    (example,) = blocks('README.md', 'inference')
    assert "'BiRefNet'" in example
    model = BiRefNetInferencer(str(config), str(checkpoint))
    exec(example.replace("'BiRefNet'", 'model'), {'model': model})
    assert Image.open(tmp_path / 'cutout.png').mode == 'RGBA'
    ((_, *words),) = commands(*blocks('README.md', 'command'))
    words[words.index('BiRefNet_lite')] = str(checkpoint)
    assert main([*words, '--config', str(config), '--overwrite']) == 0
    assert sorted(path.name for path in (tmp_path / 'cutouts').iterdir()) == ['a.png', 'b.png']


def test_head_on_a_stock_encoder_decoder():
    namespace = {}
    exec(*blocks('README.md', 'head'), namespace)
    train_and_test(MODELS.build(ConfigDict(namespace['model'])))


def test_losses_on_a_stock_head():
    namespace = {}
    exec(*blocks('README.md', 'head'), namespace)
    exec(*blocks('README.md', 'losses'), namespace)
    model = namespace['model'] | dict(decode_head=namespace['decode_head'])
    train_and_test(MODELS.build(ConfigDict(model)))


def test_components_are_those_registered():
    table = README.split('## Components')[1].split('The paper')[0]
    names = set(re.findall(r'`(\w+)`', table.replace('`mmbirefnet`', '')))
    ours = set()
    for each in vars(registry).values():
        if isinstance(each, registry.Registry):
            each.import_from_location()
            ours |= {name for name, module in each.module_dict.items() if module.__module__.startswith('mmbirefnet.')}
    assert names == ours


@pytest.mark.parametrize('path', sorted(set(re.findall(r'\]\(((?!http)[^)#]+)\)', README))))
def test_links(path):
    assert (ROOT / path).exists()


@pytest.mark.parametrize('path', sorted(set(re.findall(r'(?:configs|tools)/[\w/.-]+\.(?:py|sh)', README))))
def test_files_named_by_the_readme_exist(path):
    assert (ROOT / path).exists()
