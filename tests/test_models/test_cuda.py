"""The whole model on a GPU, against numbers of the reference implementation and against the CPU."""

import numpy as np
import pytest
import torch
from golden import GOLDEN, image, model_config, reference_state_dict
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from mmbirefnet.deploy import fuse
from mmbirefnet.models import DCNv2
from mmbirefnet.registry import MODELS
from mmbirefnet.utils import convert_birefnet_state_dict

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')


@pytest.fixture(autouse=True)
def float32(monkeypatch):
    """cuDNN uses TF32 by default."""
    monkeypatch.setattr(torch.backends.cudnn, 'allow_tf32', False)


def build(backend: str, **head):
    model = MODELS.build(model_config(**head))
    model.load_state_dict(convert_birefnet_state_dict(reference_state_dict()), strict=True)
    for module in model.modules():
        if isinstance(module, DCNv2):
            module.backend = backend
    return model


@pytest.mark.parametrize('backend', ['auto', 'mmcv', 'torch', 'triton'])
@pytest.mark.parametrize('form', [torch.nn.Module.eval, fuse], ids=['plain', 'fused'])
def test_logits(backend, form):
    expected = np.load(GOLDEN / 'forward_swin_t.npz')['logits_seed0_256x256']
    with torch.no_grad():
        logits = form(build(backend)).cuda()(image(0, 1, 256, 256).cuda(), mode='tensor')
    np.testing.assert_allclose(logits.cpu().numpy(), expected, rtol=0, atol=1e-4)


def test_compiled_logits():
    """In one graph, with the operator of deformable convolutions."""
    expected = np.load(GOLDEN / 'forward_swin_t.npz')['logits_seed0_256x256']
    model = fuse(build('auto')).cuda()
    compiled = torch.compile(model.forward, backend='aot_eager', dynamic=False, fullgraph=True)
    with torch.no_grad():
        logits = compiled(image(0, 1, 256, 256).cuda(), mode='tensor')
    np.testing.assert_allclose(logits.cpu().numpy(), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_stored_kernels_are_those_of_autocast(dtype):
    x = image(0, 1, 256, 256).cuda()
    models = [fuse(build('auto'), dtype=each).cuda() for each in (None, dtype)]
    with torch.no_grad(), torch.autocast('cuda', dtype):
        plain, stored = (model(x, mode='tensor') for model in models)
    torch.testing.assert_close(stored, plain, rtol=0, atol=1e-3 * plain.abs().max().item())


def test_gradients():
    """In float64, where another order of sums does not matter; without Triton, which computes in float32."""
    losses = [dict(type=f'mmbirefnet.{name}Loss') for name in ('BCE', 'IoU', 'SSIM')]
    sample = SegDataSample(metainfo=dict(class_label=0))
    norms = []
    for device in ('cpu', 'cuda'):
        model = build('auto', loss_decode=losses).double().to(device).eval()
        sample.gt_sem_seg = PixelData(data=(image(1, 1, 96, 96)[0, :1] > 0).double().to(device))
        sum(model(image(0, 1, 96, 96).double().to(device), [sample], mode='loss').values()).backward()
        norms.append({name: p.grad.norm().item() for name, p in model.named_parameters() if p.grad is not None})
    assert norms[1] == pytest.approx(norms[0], rel=1e-6, abs=1e-9)


def test_gradients_of_triton():
    norms = []
    for backend in ('mmcv', 'triton'):
        torch.manual_seed(0)
        layer = DCNv2(64, 32, 7, padding=3, backend=backend).cuda()
        torch.nn.init.normal_(layer.conv_offset.weight, std=0.1)
        x = image(0, 2, 40, 48).repeat(1, 22, 1, 1)[:, :64].cuda().requires_grad_()
        layer(x).square().sum().backward()
        norms.append(
            {name: p.grad.norm().item() for name, p in layer.named_parameters()} | dict(x=x.grad.norm().item())
        )
    assert norms[1] == pytest.approx(norms[0], rel=1e-4)
