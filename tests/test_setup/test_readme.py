"""What the README shows is run."""

import re
from pathlib import Path

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from mmbirefnet import registry
from mmbirefnet.registry import MODELS

ROOT = Path(__file__).parents[2]
README = (ROOT / 'README.md').read_text('utf-8')
EXAMPLES = re.findall(r'```python\n(.+?)```', README, re.S)


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


def test_head_on_a_stock_encoder_decoder():
    namespace = {}
    exec(EXAMPLES[0], namespace)
    train_and_test(MODELS.build(ConfigDict(namespace['model'])))


def test_losses_on_a_stock_head():
    namespace = {}
    exec(EXAMPLES[0], namespace)
    exec(EXAMPLES[1], namespace)
    model = namespace['model'] | dict(decode_head=namespace['decode_head'])
    train_and_test(MODELS.build(ConfigDict(model)))


def test_components_are_registered():
    table = README.split('## Components')[1].split('The paper')[0]
    names = re.findall(r'`(\w+)`', table.replace('`mmbirefnet`', ''))
    kinds = [getattr(registry, kind) for kind in dir(registry) if kind.isupper() and not kind.startswith('MMENGINE')]
    assert len(names) > 35
    for name in names:
        assert any(kind.get(f'mmbirefnet.{name}') for kind in kinds), name


@pytest.mark.parametrize('path', sorted(set(re.findall(r'\]\(((?!http)[^)#]+)\)', README))))
def test_links(path):
    assert (ROOT / path).exists()


@pytest.mark.parametrize('path', sorted(set(re.findall(r'(?:configs|tools)/[\w/.-]+\.(?:py|sh)', README))))
def test_files(path):
    assert (ROOT / path).exists()
