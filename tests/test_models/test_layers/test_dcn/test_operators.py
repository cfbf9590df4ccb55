"""The deformable convolution as an operator of compiled models."""

import mmcv.ops
import pytest
import torch
from deform_conv_inputs import CASES, assert_close, make_inputs, run

from mmbirefnet.models.layers.dcn.layer import DCNv2
from mmbirefnet.models.layers.dcn.operators import HAS_OPERATOR

needs_operator = pytest.mark.skipif(not HAS_OPERATOR, reason='compiled models have no operator with this torch')


def pairs(options):
    stride, padding, dilation, *groups = options
    return [*([value] * 2 if isinstance(value, int) else list(value) for value in (stride, padding, dilation)), *groups]


@needs_operator
@pytest.mark.parametrize('case', CASES.values(), ids=CASES.keys())
def test_equals_mmcv(case):
    tensors, options = make_inputs(**case)

    def operator(*arguments):
        return torch.ops.mmbirefnet.deform_conv(*arguments, 'auto', torch.float32)

    expected = run(mmcv.ops.modulated_deform_conv2d, tensors, options)
    assert_close(run(operator, tensors, pairs(options)), expected, 1e-5)


@needs_operator
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    'case', [dict(), dict(bias=False, groups=3, deform_groups=2, stride=2), dict(n=1, size=(1, 1))]
)
def test_shapes_memory_formats_and_gradients_are_declared(case, dtype):
    tensors, options = make_inputs(**case)
    tensors[0] = tensors[0].detach().to(dtype).requires_grad_()
    operator = torch.ops.mmbirefnet.deform_conv.default
    torch.library.opcheck(operator, (*tensors, *pairs(options), 'torch', dtype), rtol=1e-2, atol=1e-2)


@needs_operator
def test_each_gradient_alone():
    tensors, options = make_inputs()
    arguments = *pairs(options), 'torch', torch.float32
    expected = run(torch.ops.mmbirefnet.deform_conv, tensors, arguments)
    grad = torch.randn(expected[0].shape, generator=torch.Generator().manual_seed(1))
    for i in range(5):
        alone = [t.detach().requires_grad_(i == j) for j, t in enumerate(tensors)]
        torch.ops.mmbirefnet.deform_conv(*alone, *arguments).backward(grad)
        torch.testing.assert_close(alone[i].grad, expected[1 + i])
        assert all((t.grad is None) == (i != j) for j, t in enumerate(alone))


@pytest.mark.parametrize('autocast', [False, True])
@pytest.mark.parametrize('backend', ['auto', 'mmcv'])
def test_compiled_layer(backend, autocast):
    """In one graph with the layers around it, unless the backend is mmcv's."""
    torch.manual_seed(0)
    layers = torch.nn.Sequential(torch.nn.Conv2d(8, 8, 1), DCNv2(8, 6, 3, padding=1, backend=backend), torch.nn.ReLU())
    torch.nn.init.normal_(layers[1].conv_offset.weight, std=0.2)
    x = torch.randn(2, 8, 10, 7)
    one_graph = HAS_OPERATOR and backend != 'mmcv'
    compiled = torch.compile(layers, backend='aot_eager', fullgraph=one_graph)

    def step(layers):
        with torch.autocast('cpu', torch.bfloat16, enabled=autocast):
            out = layers(x)
        return [out.float(), *torch.autograd.grad(out.float().square().sum(), layers.parameters())]

    tolerance = 3e-2 if autocast else 1e-5
    for ours, theirs in zip(step(compiled), step(layers), strict=True):
        assert (ours - theirs).norm() < tolerance * theirs.norm()


@needs_operator
def test_compiled_function_of_the_result():
    layer = DCNv2(8, 6, 3, padding=1)
    x, offset_mask = torch.randn(2, 8, 10, 7), torch.randn(2, 27, 10, 7)

    def halve(values):
        return values[..., ::2] / 2

    with torch.no_grad():
        compiled = torch.compile(layer.deform, backend='aot_eager', fullgraph=True)(x, offset_mask, halve)
        torch.testing.assert_close(compiled, layer.deform(x, offset_mask)[:, ::2] / 2)
