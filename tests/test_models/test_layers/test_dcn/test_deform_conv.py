"""The deformable convolution against mmcv's kernel, plain convolution and finite differences."""

import copy
import logging

import mmcv.ops
import pytest
import torch
import torch.nn.functional as F
from deform_conv_inputs import CASES, assert_close, make_inputs, run
from mmcv.cnn import ConvModule
from mmengine.logging import MMLogger
from mmengine.runner.checkpoint import load_state_dict as mmengine_load_state_dict
from torch import nn

from mmbirefnet.models.layers.dcn import torch_backend as deform_conv_torch
from mmbirefnet.models.layers.dcn.backends import select_backend
from mmbirefnet.models.layers.dcn.layer import DCNv2, build_conv
from mmbirefnet.models.layers.dcn.torch_backend import modulated_deform_conv2d
from mmbirefnet.registry import MODELS


@pytest.mark.parametrize('case', CASES.values(), ids=CASES.keys())
@pytest.mark.parametrize(('dtype', 'tolerance'), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_equals_mmcv(case, dtype, tolerance, monkeypatch):
    tensors, options = make_inputs(**case, dtype=dtype)
    theirs = run(mmcv.ops.modulated_deform_conv2d, tensors, options)
    assert_close(run(modulated_deform_conv2d, tensors, options), theirs, tolerance)
    monkeypatch.setattr(deform_conv_torch, 'COLUMN_BYTES', 20000)  # several chunks
    assert_close(run(modulated_deform_conv2d, tensors, options), theirs, tolerance)


def test_positions_just_below_the_height_in_float64():
    """mmcv's kernel rounds them to the height in float32, and reads the row behind the map, here 7."""
    x = torch.full((3, 4), 7.0, dtype=torch.float64)
    x[:2] = torch.arange(1, 9).view(2, 4)
    offset, mask = x.new_zeros(1, 2, 2, 4), x.new_ones(1, 1, 2, 4)
    offset[0, 0] = 2 - 1e-12 - torch.arange(2, dtype=torch.float64).view(2, 1)
    out = modulated_deform_conv2d(x[None, None, :2], offset, mask, x.new_ones(1, 1, 1, 1), None)
    expected = 1e-12 * torch.arange(5.0, 9.0, dtype=torch.float64).expand(1, 1, 2, 4)
    torch.testing.assert_close(out, expected, rtol=1e-3, atol=0)
    assert select_backend('auto', torch.device('cuda'), torch.float64) == 'torch'


def test_channels_last():
    tensors, options = make_inputs()
    theirs = run(mmcv.ops.modulated_deform_conv2d, tensors, options)
    tensors[:4] = [t.detach().to(memory_format=torch.channels_last).requires_grad_() for t in tensors[:4]]
    grad = torch.randn(theirs[0].shape, generator=torch.Generator().manual_seed(1))
    ours = run(modulated_deform_conv2d, tensors, options, grad.to(memory_format=torch.channels_last))
    assert ours[0].is_contiguous(memory_format=torch.channels_last)
    assert_close(ours, theirs, 1e-5)


@pytest.mark.parametrize('case', [dict(), dict(groups=2, deform_groups=2, stride=2, dilation=2)])
@pytest.mark.soak
def test_gradcheck(case):
    tensors, options = make_inputs(n=1, channels=4, out_channels=2, size=(5, 4), padding=2, dtype=torch.float64, **case)
    assert torch.autograd.gradcheck(lambda *t: modulated_deform_conv2d(*t, *options), tensors)


@pytest.mark.parametrize('index', range(5))
def test_each_gradient_alone(index):
    tensors, options = make_inputs()
    expected = run(modulated_deform_conv2d, tensors, options)[1 + index]
    tensors = [t.detach().requires_grad_(i == index) for i, t in enumerate(tensors)]
    out = modulated_deform_conv2d(*tensors, *options)
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
    out.backward(grad)
    torch.testing.assert_close(tensors[index].grad, expected)
    assert all((t.grad is None) == (i != index) for i, t in enumerate(tensors))


def test_integer_offsets_shift_the_map():
    x = torch.randn(1, 3, 8, 8)
    weight = torch.randn(4, 3, 3, 3)
    offset = torch.zeros(1, 9, 2, 8, 8)
    offset[:, :, 0], offset[:, :, 1] = 2, -1  # each tap reads two rows below, one column to the left
    out = modulated_deform_conv2d(x, offset.flatten(1, 2), torch.full((1, 9, 8, 8), 0.5), weight, padding=1)
    rows_1_to_10_columns_minus_2_to_7 = F.pad(x, (2, 0, 0, 3))[:, :, 1:]
    torch.testing.assert_close(out, 0.5 * F.conv2d(rows_1_to_10_columns_minus_2_to_7, weight))


def test_not_a_number_reads_nothing():
    tensors, options = make_inputs(bias=False)
    offset = torch.full_like(tensors[1], float('nan'))
    out = modulated_deform_conv2d(tensors[0], offset, *tensors[2:], *options)
    assert (out == 0).all()


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(offset=torch.zeros(2, 9, 11, 9)), r'offset must have shape \(2, 18, 11, 9\), got \(2, 9, 11, 9\)'),
        (dict(mask=torch.zeros(2, 18, 11, 9)), r'mask must have shape \(2, 9, 11, 9\)'),
        (dict(weight=torch.zeros(6, 5, 3, 3)), '12 channels and a kernel of shape'),
        (dict(x=torch.zeros(2, 12, 11, 0)), 'too small'),
    ],
)
def test_shapes_are_checked(change, message):
    (x, offset, mask, weight, bias), options = make_inputs()
    arguments = {**dict(x=x, offset=offset, mask=mask, weight=weight, bias=bias), **change}
    with pytest.raises(ValueError, match=message):
        modulated_deform_conv2d(*arguments.values(), *options)


def trained_layer(**kwargs):
    """A layer whose offsets and masks are not constant."""
    torch.manual_seed(0)
    layer = DCNv2(8, 6, 3, padding=1, **kwargs)
    torch.nn.init.normal_(layer.conv_offset.weight, std=0.2)
    torch.nn.init.normal_(layer.conv_offset.bias, std=0.5)
    return layer


@pytest.mark.parametrize('backend', ['auto', 'torch', 'mmcv'])
def test_layer_is_mmcv_layer(backend):
    layer = trained_layer(backend=backend, deform_groups=2, mask_scale=1)
    theirs = mmcv.ops.ModulatedDeformConv2dPack(8, 6, 3, padding=1, deform_groups=2)
    theirs.load_state_dict(layer.state_dict())
    x = torch.randn(2, 8, 10, 7)
    torch.testing.assert_close(layer(x), theirs(x), rtol=1e-4, atol=1e-5)
    layer(x).square().sum().backward()
    theirs(x).square().sum().backward()
    for (name, a), b in zip(layer.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-4, msg=name)


def test_fresh_layer_is_a_plain_convolution():
    """As in BiRefNet: mask 2 * sigmoid(0) = 1 and no offset, with the weights of a fresh ``Conv2d``."""
    torch.manual_seed(0)
    layer = DCNv2(64, 128, 3, padding=1, bias=False)
    x = torch.randn(1, 64, 8, 8)
    torch.testing.assert_close(layer(x), F.conv2d(x, layer.weight, padding=1), rtol=1e-4, atol=1e-5)
    bound = 1 / (64 * 9) ** 0.5
    assert layer.weight.abs().max().item() == pytest.approx(bound, rel=1e-3)
    layer.init_weights()
    assert layer.weight.abs().max().item() == pytest.approx(bound, rel=1e-3)


@pytest.mark.parametrize('backend', ['torch', 'mmcv'])
@pytest.mark.parametrize('mask_scale', [2.0, 3.0])
def test_mask_scale(backend, mask_scale):
    """The masks are ``mask_scale * sigmoid(m)``, and so are the gradients of all parameters."""
    layer = trained_layer(backend=backend, mask_scale=mask_scale)
    x = torch.randn(2, 8, 10, 7)
    parameters = [parameter.detach().requires_grad_() for parameter in layer.parameters()]
    weight, bias, offset_weight, offset_bias = parameters
    offset, modulator = F.conv2d(x, offset_weight, offset_bias, padding=1).split((18, 9), 1)
    mask = mask_scale * modulator.sigmoid()
    expected = mmcv.ops.modulated_deform_conv2d(x, offset.contiguous(), mask, weight, bias, 1, 1, 1, 1, 1)
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-5)
    ours = torch.autograd.grad(layer(x).square().sum(), layer.parameters())
    theirs = torch.autograd.grad(expected.square().sum(), parameters)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4 * b.abs().max().item())


class TestOldKernels:
    """State dicts of mmcv's layer, which the layers of earlier versions were, have kernels for masks of sigmoid(m)."""

    def old(self):
        torch.manual_seed(0)
        layer = nn.Sequential(mmcv.ops.ModulatedDeformConv2dPack(8, 6, 3, padding=1))
        nn.init.normal_(layer[0].conv_offset.bias, std=0.5)
        return layer

    @pytest.mark.parametrize('mask_scale', [2.0, 3.0, 1.0])
    @pytest.mark.parametrize('load', [nn.Module.load_state_dict, mmengine_load_state_dict], ids=['torch', 'mmengine'])
    def test_old_kernels_are_rescaled(self, load, mask_scale):
        old, new = self.old(), nn.Sequential(DCNv2(8, 6, 3, padding=1, mask_scale=mask_scale))
        state, x = old.state_dict(), torch.randn(1, 8, 6, 5)
        kernel = state['0.weight'].clone()
        load(new, state)
        torch.testing.assert_close(new(x), old(x), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(new[0].weight, kernel / mask_scale)
        assert torch.equal(state['0.weight'], kernel)

    def test_current_kernels_and_those_without_a_version_are_not(self):
        new, again = nn.Sequential(trained_layer()), nn.Sequential(trained_layer())
        state = new.state_dict()
        for each in (state, dict(state)):
            nn.init.zeros_(again[0].weight)
            again.load_state_dict(each)
            assert torch.equal(again[0].weight, new[0].weight)

    def test_logged_once(self, monkeypatch):
        lines = []
        handler = logging.Handler()
        handler.emit = lambda record: lines.append(record.getMessage())
        monkeypatch.setattr(MMLogger.get_instance('old_kernels'), 'handlers', [handler])
        new = nn.Sequential(DCNv2(8, 6, 3, padding=1, mask_scale=5.0), DCNv2(8, 6, 3, padding=1, mask_scale=5.0))
        new.load_state_dict(nn.Sequential(*self.old(), *self.old()).state_dict())
        new.load_state_dict(nn.Sequential(*self.old(), *self.old()).state_dict())
        assert sum('divided by 5' in line for line in lines) == 1


@pytest.mark.parametrize('backend', ['torch', 'mmcv'])
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_autocast_and_half(backend, dtype):
    if dtype == torch.float16 and torch.__version__ < '2.3':
        pytest.skip('torch 2.1 has no float16 on the CPU')
    layer = trained_layer(backend=backend)
    x = torch.randn(2, 8, 10, 7)
    expected = layer(x)
    with torch.autocast('cpu', dtype=dtype):
        out = layer(x)
        out_of_half = layer(x.to(dtype))
    assert out.dtype == out_of_half.dtype == dtype
    out.float().sum().backward()
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in layer.parameters())
    half = layer.to(dtype)(x.to(dtype))
    assert half.dtype == dtype
    for result in (out, out_of_half, half):
        torch.testing.assert_close(result.float(), expected, rtol=0.1, atol=0.1)


@pytest.mark.skipif(not hasattr(torch.cpu, 'get_capabilities'), reason='this torch does not report what the CPU has')
def test_bfloat16_products_where_the_cpu_has_them(monkeypatch):
    """On a map 600 pixels wide: positions rounded to bfloat16 would be off by a pixel."""
    tensors = [torch.randn(1, channels, 5, 600).bfloat16().requires_grad_() for channels in (8, 27)]
    grad = torch.randn(1, 6, 5, 600).bfloat16()

    def step(layer, x, offset_mask):
        out = layer.deform(x, offset_mask)
        return [out, *torch.autograd.grad(out, [x, offset_mask, layer.weight, layer.bias], grad.to(out.dtype))]

    def errors():
        """Root mean squares, relative to the standard deviation, in units of bfloat16's precision."""
        results = step(layer, *tensors)
        assert results[0].dtype == torch.bfloat16
        errors = [
            (ours - right).square().mean().sqrt() / right.std() for ours, right in zip(results, exact, strict=True)
        ]
        return [error.item() / torch.finfo(torch.bfloat16).eps for error in errors]

    layer = trained_layer()
    exact = step(copy.deepcopy(layer).double(), *(tensor.detach().double().requires_grad_() for tensor in tensors))
    monkeypatch.setattr(torch.cpu, 'get_capabilities', dict)
    rounded_results = errors()
    assert max(rounded_results) < 0.3
    monkeypatch.setattr(torch.cpu, 'get_capabilities', lambda: {'amx_bf16': True})
    rounded_factors = errors()
    assert max(rounded_factors) < 0.8
    assert rounded_factors[0] > 1.5 * rounded_results[0]


def test_backend_is_checked():
    with pytest.raises(ValueError, match="'auto', 'mmcv', 'torch', 'triton', got 'cudnn'"):
        DCNv2(8, 6, 3, backend='cudnn')
    layer = DCNv2(8, 6, 3)
    layer.backend = 'cudnn'
    with pytest.raises(ValueError, match='cudnn'):
        layer(torch.randn(1, 8, 5, 5))


def test_memory_is_bounded():
    """Neither pass allocates the im2col buffer, here 77 MiB, and only the inputs are kept for the backward pass."""
    tensors, options = make_inputs(n=1, channels=64, out_channels=8, size=(80, 80), kernel=(7, 7), padding=3)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.data_ptr()) or t, lambda t: t):
        modulated_deform_conv2d(*tensors, *options)
    assert set(kept) <= {t.data_ptr() for t in tensors}
    options_ = dict(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True)
    if torch.__version__ >= '2.5':  # which forgets events otherwise
        options_['acc_events'] = True
    with torch.profiler.profile(**options_) as profile:
        run(modulated_deform_conv2d, tensors, options)
    allocations = [
        event.cpu_memory_usage for event in profile.events() if event.name in ('aten::empty', 'aten::resize_')
    ]
    assert 0 < max(allocations) <= deform_conv_torch.COLUMN_BYTES


def test_build_conv():
    assert MODELS.get('DCNv2') is DCNv2
    layer = build_conv(dict(type='DCNv2', backend='mmcv'), 4, 6, 3, padding=1, bias=False)
    assert type(layer) is DCNv2
    assert layer.backend == 'mmcv'
    assert layer.bias is None
    assert type(build_conv(None, 4, 6, 3)) is torch.nn.Conv2d
    assert type(build_conv(dict(type='Conv2d'), 4, 6, 3)) is torch.nn.Conv2d
    assert type(build_conv(dict(type='DCN'), 4, 6, 3)) is mmcv.ops.DeformConv2dPack
    assert type(build_conv(dict(type=torch.nn.Conv2d), 4, 6, 3)) is torch.nn.Conv2d
    with pytest.raises(KeyError, match='NoSuchConv'):
        build_conv(dict(type='NoSuchConv'), 4, 6, 3)


def test_in_a_stock_conv_module():
    module = ConvModule(4, 6, 3, padding=1, conv_cfg=dict(type='mmbirefnet.DCNv2'), norm_cfg=dict(type='BN'))
    assert type(module.conv) is DCNv2
    assert module(torch.randn(2, 4, 5, 5)).shape == (2, 6, 5, 5)
