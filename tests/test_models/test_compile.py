"""torch.compile changes how the model is computed, not what."""

import pytest
import torch
from golden import image, model_config
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch import nn

from mmbirefnet.deploy import fuse
from mmbirefnet.models.layers.dcn.operators import HAS_OPERATOR
from mmbirefnet.registry import MODELS

pytestmark = pytest.mark.soak
# Tracing takes the time: few blocks and branches, but a shifted window and two branches that share their offsets.
ARCH = dict(embed_dims=8, depths=(2, 1, 1, 1), num_heads=(1, 2, 2, 2), window_size=4)
ASPP = dict(branch_channels=16, kernel_sizes=(1, 1), dilations=(1, 1))


def build() -> nn.Module:
    """A model in float64, so that rounding differences stay small through its norms."""
    torch.manual_seed(0)
    cfg = model_config(arch=ARCH, channels=(8, 16, 32, 64), aspp_cfg=ASPP)
    cfg['neck']['aspp_cfg'] = ASPP
    model = MODELS.build(cfg | dict(multi_scale_input=False)).double()
    for name, parameter in model.named_parameters():
        if 'conv_offset.weight' in name:
            nn.init.normal_(parameter, std=0.1)
        elif 'bias_table' in name:
            nn.init.normal_(parameter)
    return model


def assert_compiled_logits(model: nn.Module, backend: str, *sizes: tuple[int, int]) -> None:
    # With symbolic sizes tracing the padded and shifted windows takes minutes, see docs/en/notes/performance.md.
    compiled = torch.compile(model.forward, backend=backend, dynamic=False, fullgraph=HAS_OPERATOR)
    with torch.no_grad():
        for size in sizes:
            x = image(0, 1, *size).double()
            expected = model(x, mode='tensor')
            assert expected.std() > 0.01
            torch.testing.assert_close(compiled(x, mode='tensor'), expected, rtol=0, atol=1e-6)


def test_inference():
    assert_compiled_logits(build().eval(), 'aot_eager', (64, 64))


def test_fused_inference_at_two_sizes():
    assert_compiled_logits(fuse(build()), 'aot_eager', (64, 64), (96, 64))


def test_inductor():
    assert_compiled_logits(fuse(build()), 'inductor', (64, 64))


def step(model: nn.Module, forward) -> dict[str, torch.Tensor]:
    """Losses, gradients and buffers after a step."""
    samples = [SegDataSample(gt_sem_seg=PixelData(data=mask)) for mask in image(1, 2, 64, 96)[:, :1].sigmoid().double()]
    losses = forward(image(0, 2, 64, 96).double(), samples, mode='loss')
    model.parse_losses(losses)[0].backward()
    results = {name: loss.detach() for name, loss in losses.items()}
    results |= {f'grad {name}': parameter.grad for name, parameter in model.named_parameters()}
    return results | dict(model.named_buffers())


@pytest.mark.parametrize('with_cp', [False, True])
def test_training_step(with_cp):
    results = []
    for compiled in (False, True):
        model = build().train()
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0
            if type(module).__name__ == 'DropPath':
                module.drop_prob = 0
        model.backbone.with_cp = model.decode_head.with_cp = with_cp
        # Checkpointed blocks break the graph.
        options = dict(backend='aot_eager', dynamic=False, fullgraph=HAS_OPERATOR and not with_cp)
        forward = torch.compile(model.forward, **options) if compiled else model.forward
        results.append(step(model, forward))
    plain, ours = results
    assert plain.keys() == ours.keys()
    for name, value in plain.items():
        torch.testing.assert_close(
            ours[name], value, rtol=1e-6, atol=1e-6, msg=lambda text, name=name: f'{name}: {text}'
        )
