"""No tensor of the model is made on the CPU where the model is elsewhere, proved without a GPU by fake tensors."""

import mmcv.ops
import pytest
import torch
from golden import model_config
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from mmbirefnet.deploy import fuse
from mmbirefnet.models.layers import DCNv2
from mmbirefnet.registry import MODELS

pytestmark = pytest.mark.skipif(torch.__version__ < '2.2', reason='torch 2.1 asks for a driver even of fake tensors')
ARCH = dict(embed_dims=8, depths=(2, 1, 1, 1), num_heads=(1, 2, 2, 2), window_size=4)
LOSSES = [dict(type=f'mmbirefnet.{name}Loss') for name in ('BCE', 'IoU', 'SSIM', 'MAE', 'Structure', 'Contour')]


def build(backend: str) -> nn.Module:
    cfg = model_config(classifier=True, arch=ARCH, channels=(16, 32, 64, 128), loss_decode=LOSSES)
    cfg['neck']['aspp_cfg'] = cfg['decode_head']['aspp_cfg'] = dict(branch_channels=16)
    model = MODELS.build(cfg)
    for module in model.modules():
        if isinstance(module, DCNv2):
            module.backend = backend
    return model


@pytest.fixture(params=['auto', 'torch'])
def backend(request, monkeypatch):
    """Which deformable convolution is used; mmcv's kernel, the automatic choice, takes no fake tensors."""

    def on_cuda(x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, *_) -> Tensor:
        assert {t.device.type for t in (x, offset, mask, weight)} == {'cuda'}
        return x.new_empty(len(x), len(weight), *offset.shape[2:])

    monkeypatch.setattr(mmcv.ops, 'modulated_deform_conv2d', on_cuda)
    return request.param


def to_cuda(model: nn.Module, monkeypatch) -> nn.Module:
    monkeypatch.setattr(torch.__future__, '_overwrite_module_params_on_conversion', True)
    return model._apply(lambda t: torch.empty(t.shape, dtype=t.dtype, device='cuda'))


@pytest.mark.parametrize('form', [nn.Module.eval, fuse], ids=['plain', 'fused'])
@pytest.mark.soak
def test_inference(form, backend, monkeypatch):
    model = form(build(backend))
    with FakeTensorMode(), torch.no_grad():  # in which an operation on tensors of two devices is an error
        logits = to_cuda(model, monkeypatch)(torch.empty(2, 3, 64, 96, device='cuda'), mode='tensor')
    assert logits.device.type == 'cuda'


@pytest.mark.soak
def test_training(backend, monkeypatch):
    model = build(backend).train()
    with FakeTensorMode():
        mask = PixelData(data=torch.empty(1, 64, 96, device='cuda'))
        samples = [SegDataSample(gt_sem_seg=mask, metainfo=dict(class_label=1)) for _ in range(2)]
        losses = to_cuda(model, monkeypatch)(torch.empty(2, 3, 64, 96, device='cuda'), samples, mode='loss')
    assert len(losses) == len(LOSSES) + 2
    assert {loss.device.type for loss in losses.values()} == {'cuda'}
