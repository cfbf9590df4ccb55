"""The export forms of the deformable convolution against the layer's own, in torch and in onnxruntime."""

import io

import numpy as np
import onnxruntime
import pytest
import torch
from deform_conv_inputs import CASES, make_inputs
from mmcv.ops import ModulatedDeformConv2dPack
from torch import nn

from mmbirefnet.models import DCNv2
from mmbirefnet.models.layers.dcn.torch_backend import modulated_deform_conv2d

pytest.importorskip('mmbirefnet.deploy.program', exc_type=ImportError)  # torch < 2.6
from mmbirefnet.deploy.deform_conv_export import FORMS, GridSampleDeformConv, OperatorDeformConv, replace_deform_convs  # noqa: E402
from mmbirefnet.deploy.onnx import LOWEST_OPSETS  # noqa: E402
from mmbirefnet.deploy.onnx_operators import translations  # noqa: E402

MASK_SCALE = 3.0


def convolution(form, weight, bias, options) -> nn.Module:
    """The form of a layer with a given kernel."""
    stride, padding, dilation, groups, deform_groups = options
    channels, out_channels = weight.shape[1] * groups, len(weight)
    layer = DCNv2(
        *(channels, out_channels, weight.shape[2:], stride, padding, dilation, groups, deform_groups, bias is not None),
        mask_scale=MASK_SCALE,
    )
    layer.weight.data.copy_(weight)
    if bias is not None:
        layer.bias.data.copy_(bias)
    return form(layer)


@pytest.mark.parametrize('case', CASES)
@pytest.mark.parametrize('form', FORMS.values())
def test_export_form_equals_modulated_deform_conv2d(form, case):
    (x, offset, mask, weight, bias), options = make_inputs(**CASES[case])
    module = convolution(form, weight, bias, options)
    offset_mask = torch.cat([offset, mask.logit()], 1)
    with torch.no_grad():
        expected = modulated_deform_conv2d(x, offset, MASK_SCALE * mask, weight, bias, *options)
        found = module.deform(x, offset_mask)
        # What follows sees channels last.
        then = module.deform(x, offset_mask, lambda values: values.flip(-1))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(then, found.flip(1), rtol=0, atol=0)


@pytest.mark.parametrize('case', ['stride', 'groups that cross deform groups', 'one pixel'])
@pytest.mark.parametrize(
    ('module_form', 'form'), [*zip(FORMS.values(), FORMS), (OperatorDeformConv, 'gridsample')], ids=[*FORMS, 'any size']
)
@pytest.mark.soak(keep=1)
def test_onnxruntime_computes_it(module_form, form, case):
    (x, offset, mask, weight, bias), options = make_inputs(**CASES[case])
    module = convolution(module_form, weight, bias, options)
    offset_mask = torch.cat([offset, mask.logit()], 1).detach()

    class Convolution(nn.Module):
        def __init__(self):
            super().__init__()
            self.module = module

        def forward(self, x, offset_mask):
            return self.module.deform(x, offset_mask)

    batch = {0: torch.export.Dim('batch')}
    file = io.BytesIO()
    torch.onnx.export(
        Convolution().eval(),
        (x.detach(), offset_mask),
        dynamo=True,
        opset_version=LOWEST_OPSETS[form],
        dynamic_shapes=(batch, batch),
        custom_translation_table=translations(form),
        verbose=False,
    ).save(file)
    session = onnxruntime.InferenceSession(file.getvalue(), providers=['CPUExecutionProvider'])
    for images in (slice(None), slice(0, 1)):
        inputs = {'x': x[images].detach().numpy(), 'offset_mask': offset_mask[images].numpy()}
        (found,) = session.run(None, inputs)
        masks = MASK_SCALE * mask[images]
        expected = modulated_deform_conv2d(x[images], offset[images], masks, weight, bias, *options)
        np.testing.assert_allclose(found, expected.detach().numpy(), rtol=1e-4, atol=1e-4)


def test_layers_are_replaced_wherever_they_are():
    layers = nn.Sequential(DCNv2(4, 4, 3), nn.ModuleDict(dict(deep=nn.Sequential(DCNv2(4, 4, 1)))), nn.Conv2d(4, 4, 1))
    assert replace_deform_convs(layers, 'gridsample') is layers
    kinds = [type(module) for module in layers.modules() if isinstance(module, (DCNv2, OperatorDeformConv))]
    assert kinds == []
    assert sum(isinstance(module, GridSampleDeformConv) for module in layers.modules()) == 2
    with pytest.raises(ValueError, match="deform_conv must be one of 'standard', 'gridsample', got 'mmcv'"):
        replace_deform_convs(layers, 'mmcv')


@pytest.mark.parametrize('form', FORMS.values())
def test_layer_of_mmcv_keeps_its_masks(form):
    """Masks of mmcv's own layer are not scaled."""
    torch.manual_seed(0)
    layer = ModulatedDeformConv2dPack(4, 6, 3, padding=1)
    nn.init.normal_(layer.conv_offset.bias, std=0.5)
    x = torch.randn(1, 4, 7, 9)
    with torch.no_grad():
        torch.testing.assert_close(form(layer)(x), layer(x), rtol=1e-4, atol=1e-5)
