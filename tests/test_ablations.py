"""The paper's ablations: what is switched off has no parameters and no losses, and the rest trains."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from small_model import shrink

from mmbirefnet.registry import MODELS

CONFIGS = Path(__file__).parents[1] / 'configs'
BACKBONE_NAME = '_swin-l_8xb4-500e_dis5k-1024x1024.py'
ABLATIONS = sorted((CONFIGS / 'birefnet_ablation').glob('*.py'))
LOSSES = {'loss_bce', 'loss_iou', 'loss_ssim', 'loss_gradient'}
# What of the parameters' names is gone, and which losses are.
GONE = {
    'no-inward-reference': (('.inward.', '.conv_logits_inward.'), ()),
    'no-outward-reference': (('.outward.',), ('loss_gradient',)),
    'plain-convs': (('.conv_offset.',), ()),
    'no-context': ((), ()),
    'no-multi-scale-input': ((), ()),
    'no-gradient-supervision': (('.outward.gradient.',), ('loss_gradient',)),
    'single-scale-supervision': ((), ()),
}


def small_model(path):
    """A config's model, small, in training."""
    torch.manual_seed(0)
    return MODELS.build(shrink(Config.fromfile(path).model)).train()


def name_of(path):
    return path.name.removeprefix('birefnet-').removesuffix(BACKBONE_NAME)


@pytest.fixture(scope='module')
def full():
    model = small_model(CONFIGS / f'birefnet/birefnet{BACKBONE_NAME}')
    return {name: parameter.shape for name, parameter in model.named_parameters()}


class Iteration:
    """One iteration of a training, with what the backbone was given and the head gave."""

    def __init__(self, model):
        self.images, self.output = [], None
        model.backbone.register_forward_hook(lambda _, inputs, __: self.images.append(inputs[0].shape[2:]))
        loss_by_feat = model.decode_head.loss_by_feat

        def keep(output, data_samples):
            self.output = output
            self.losses = loss_by_feat(output, data_samples)
            return self.losses

        model.decode_head.loss_by_feat = keep
        generator = torch.Generator().manual_seed(0)
        self.masks = torch.rand(2, 1, 64, 64, generator=generator)
        samples = [SegDataSample(gt_sem_seg=PixelData(data=mask)) for mask in self.masks]
        images = torch.randint(0, 256, (2, 3, 64, 64), generator=generator, dtype=torch.uint8)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        self.log = model.train_step(dict(inputs=list(images), data_samples=samples), OptimWrapper(optimizer))


def test_every_ablation_of_the_paper_is_there():
    assert {name_of(path) for path in ABLATIONS} == set(GONE)


@pytest.mark.parametrize('path', ABLATIONS, ids=name_of)
@pytest.mark.soak(keep=2)
def test_ablation(path, full):
    gone, lost = GONE[name_of(path)]
    model = small_model(path)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    assert set(before) == {name for name in full if not any(part in name for part in gone)}
    iteration = Iteration(model)
    assert set(iteration.losses) == LOSSES - set(lost)
    assert iteration.log['loss'].isfinite()
    for name, parameter in model.named_parameters():
        # AdamW leaves those without a gradient alone.
        assert not torch.equal(parameter, before[name]), name

    maps = 1 if 'single' in path.stem else 4
    bce = sum(
        F.binary_cross_entropy_with_logits(
            F.interpolate(logits, (64, 64), mode='bilinear', align_corners=True), iteration.masks
        )
        for logits in [iteration.output.logits, *iteration.output.side_logits][:maps]
    )
    torch.testing.assert_close(iteration.losses['loss_bce'], 30 * bce)
    assert iteration.images == [(64, 64), (32, 32)][: 1 if 'multi-scale-input' in path.stem else 2]
    (context,) = (shape[1] for name, shape in full.items() if name == 'neck.squeeze.conv_in.weight')
    found = before['neck.squeeze.conv_in.weight'].shape[1]
    assert (context, found) == (240, {'no-context': 128, 'no-multi-scale-input': 120}.get(name_of(path), 240))


def test_plain_convolutions_are_plain():
    (path,) = (path for path in ABLATIONS if name_of(path) == 'plain-convs')
    kinds = [
        {type(branch.conv) for branch in module.branches}
        for module in small_model(path).modules()
        if type(module).__name__ == 'ASPP'
    ]
    assert kinds == [{torch.nn.Conv2d}] * 5


def test_full_model_has_all_ablated_parts(full):
    for parts, _ in GONE.values():
        for part in parts:
            assert any(part in name for name in full), part
    assert set(Iteration(small_model(CONFIGS / f'birefnet/birefnet{BACKBONE_NAME}')).losses) == LOSSES
