"""Inputs for the forms of the deformable convolution, and how their results are compared."""

import torch
import torch.nn.functional as F

CASES = {
    'plain 3x3': dict(),
    '1x1': dict(kernel=(1, 1), padding=0),
    '7x7, batch 3': dict(n=3, kernel=(7, 7), padding=3, size=(17, 13)),
    'oblong': dict(kernel=(1, 5), padding=(0, 2), size=(5, 20)),
    'stride': dict(stride=(2, 3), size=(15, 22)),
    'dilation': dict(dilation=(2, 3), padding=(2, 3)),
    'no padding': dict(padding=0),
    'wide padding': dict(padding=4),
    'groups': dict(groups=3),
    'deform groups': dict(deform_groups=2),
    'groups and deform groups': dict(groups=3, deform_groups=2),
    'groups that cross deform groups': dict(groups=2, deform_groups=3, stride=2, dilation=2),
    'far outside': dict(spread=20.0),
    'very far outside': dict(spread=1e12),
    'one pixel': dict(size=(1, 1)),
    'no bias': dict(bias=False),
    'zero offsets': dict(spread=0.0),
}


def make_inputs(
    n=2,
    channels=12,
    out_channels=6,
    size=(11, 9),
    kernel=(3, 3),
    stride=1,
    padding=1,
    dilation=1,
    groups=1,
    deform_groups=1,
    spread=1.5,
    bias=True,
    dtype=torch.float32,
):
    """Random (x, offset, mask, weight, bias) that require gradients, and the options that follow them."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(shape, generator=generator, dtype=dtype)

    weight = draw(out_channels, channels // groups, *kernel)
    meta = torch.empty(n, channels, *size, device='meta', dtype=dtype)
    out_size = F.conv2d(meta, weight.to('meta'), None, stride, padding, dilation, groups).shape[2:]
    taps = deform_groups * kernel[0] * kernel[1]
    tensors = [
        draw(n, channels, *size),
        spread * draw(n, 2 * taps, *out_size),
        draw(n, taps, *out_size).sigmoid(),
        weight,
        draw(out_channels) if bias else None,
    ]
    tensors = [None if t is None else t.requires_grad_() for t in tensors]
    return tensors, (stride, padding, dilation, groups, deform_groups)


def run(op, tensors, options, grad=None):
    """Output and the gradients of the five inputs."""
    out = op(*tensors, *options)
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=out.dtype) if grad is None else grad
    return [out, *torch.autograd.grad(out, [t for t in tensors if t is not None], grad)]


def assert_close(ours, theirs, tolerance):
    for name, a, b in zip(('out', 'x', 'offset', 'mask', 'weight', 'bias')[: len(ours)], ours, theirs, strict=True):
        assert a.shape == b.shape, name
        assert (a - b).abs().max() <= tolerance * b.abs().max().clamp(min=1), name
