"""Reconstruction block and its ASPP against the formulas written out with plain functions."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmbirefnet.models.layers import ASPP, ReconstructionBlock


def seeded(module: nn.Module) -> nn.Module:
    """With parameters and statistics none of which is at its initial value; in evaluation mode."""
    generator = torch.Generator().manual_seed(0)
    for name, value in module.state_dict().items():
        if value.is_floating_point():
            noise = torch.randn(value.shape, generator=generator)
            value.copy_(0.5 + noise.abs() if 'running_var' in name else noise / max(1, value[0].numel()) ** 0.5)
    return module.eval()


def maps(channels, height, width, n=2) -> Tensor:
    return torch.randn(n, channels, height, width, generator=torch.Generator().manual_seed(1))


def batch_norm(x: Tensor, state: dict, name: str) -> Tensor:
    mean, var, weight, bias = (
        state[f'{name}.{part}'][:, None, None] for part in ('running_mean', 'running_var', 'weight', 'bias')
    )
    return (x - mean) / (var + 1e-5).sqrt() * weight + bias


def deform_conv(x: Tensor, offset_mask: Tensor, weight: Tensor) -> Tensor:
    """DCNv2 of odd kernels, stride 1, same size, masks up to 2: a tap is one bilinear sampling of the whole map."""
    height, width = x.shape[2:]
    size = weight.shape[-1]
    out = 0
    for tap in range(size**2):
        y = torch.arange(height)[:, None] + tap // size - size // 2 + offset_mask[:, 2 * tap]
        z = torch.arange(width)[None, :] + tap % size - size // 2 + offset_mask[:, 2 * tap + 1]
        grid = torch.stack((2 * z / (width - 1) - 1, 2 * y / (height - 1) - 1), -1)
        mask = 2 * offset_mask[:, None, 2 * size**2 + tap].sigmoid()
        sampled = F.grid_sample(x, grid, align_corners=True) * mask
        out = out + torch.einsum('oc,nchw->nohw', weight[:, :, tap // size, tap % size], sampled)
    return out


def expected_aspp(x: Tensor, state: dict, branch_convs: list) -> Tensor:
    branches = [F.relu(batch_norm(conv(x), state, f'branches.{i}.norm')) for i, conv in enumerate(branch_convs)]
    pooled = torch.einsum('oc,nc->no', state['pooled.conv.weight'][..., 0, 0], x.mean((2, 3)))[..., None, None]
    pooled = F.relu(batch_norm(pooled, state, 'pooled.norm'))
    joined = torch.cat([*branches, pooled.expand(-1, -1, *x.shape[2:])], 1)
    return F.relu(batch_norm(F.conv2d(joined, state['merge.conv.weight']), state, 'merge.norm'))


def test_deformable_aspp():
    aspp = seeded(ASPP(3, 4, branch_channels=5))
    state, x = aspp.state_dict(), maps(3, 9, 11)

    def branch(i, size):
        offsets = f'branches.{i}.conv.conv_offset'
        return lambda x: deform_conv(
            x,
            F.conv2d(x, state[f'{offsets}.weight'], state[f'{offsets}.bias'], padding=size // 2),
            state[f'branches.{i}.conv.weight'],
        )

    expected = expected_aspp(x, state, [branch(i, size) for i, size in enumerate((1, 1, 3, 7))])
    assert expected.std() > 0.1
    torch.testing.assert_close(aspp(x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ('kernel_sizes', 'dilations'), [((1, 1, 3, 7), (1, 1, 1, 1)), ((1, 3, 3, 3), (1, 6, 12, 18)), ((5, 3), (2, 1))]
)
def test_plain_and_dilated_aspp(kernel_sizes, dilations):
    aspp = seeded(ASPP(3, 4, branch_channels=5, conv_cfg=None, kernel_sizes=kernel_sizes, dilations=dilations))
    state, x = aspp.state_dict(), maps(3, 24, 20)

    def branch(i, size, dilation):
        # A dilated convolution is a plain one whose kernel has zeros between its taps.
        kernel = state[f'branches.{i}.conv.weight']
        spread = kernel.new_zeros(*kernel.shape[:2], *[dilation * (size - 1) + 1] * 2)
        spread[..., ::dilation, ::dilation] = kernel
        return lambda x: F.conv2d(x, spread, padding=spread.shape[-1] // 2)

    convs = [branch(i, size, dilation) for i, (size, dilation) in enumerate(zip(kernel_sizes, dilations))]
    torch.testing.assert_close(aspp(x), expected_aspp(x, state, convs), rtol=1e-4, atol=1e-4)


def test_aspp_drops_out_in_training_only():
    aspp = seeded(ASPP(3, 64, branch_channels=8, conv_cfg=None, norm_cfg=dict(type='GN', num_groups=1)))
    x = maps(3, 16, 16)
    kept = aspp(x)
    torch.manual_seed(0)
    dropped = aspp.train()(x)
    positive = kept > 0
    assert (dropped[positive] == 0).float().mean().item() == pytest.approx(0.5, abs=0.02)
    remaining = positive & (dropped > 0)
    torch.testing.assert_close(dropped[remaining], 2 * kept[remaining])


def test_aspp_with_unequal_lists():
    with pytest.raises(ValueError, match='4 kernel_sizes but 2 dilations'):
        ASPP(3, 4, dilations=(1, 2))


def reconstruct(block: ReconstructionBlock, x: Tensor) -> Tensor:
    state = block.state_dict()
    x = F.conv2d(x, state['conv_in.weight'], state['conv_in.bias'], padding=1)
    x = F.relu(batch_norm(x, state, 'norm_in'))
    if block.aspp is not None:
        x = block.aspp(x)
    x = F.conv2d(x, state['conv_out.weight'], state['conv_out.bias'], padding=1)
    return batch_norm(x, state, 'norm_out')


@pytest.mark.parametrize('aspp_cfg', [dict(), None])
def test_reconstruction_block(aspp_cfg):
    block = seeded(ReconstructionBlock(3, 4, channels=8, aspp_cfg=aspp_cfg))
    x = maps(3, 9, 11)
    found = block(x)
    torch.testing.assert_close(found, reconstruct(block, x), rtol=1e-4, atol=1e-4)
    assert (found < 0).any()  # no ReLU at the end
    assert (block.aspp is None) == (aspp_cfg is None)


def test_residual_reconstruction_block():
    block = seeded(ReconstructionBlock(3, 4, channels=8, residual=True))
    x = maps(3, 9, 11)
    shortcut = torch.einsum('oc,nchw->nohw', block.shortcut.weight[..., 0, 0], x) + block.shortcut.bias[:, None, None]
    torch.testing.assert_close(block(x), reconstruct(block, x) + shortcut, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('norm_cfg', [dict(type='BN'), dict(type='GN', num_groups=4)])
def test_one_image_trains(norm_cfg):
    block = ReconstructionBlock(3, 4, channels=8, norm_cfg=norm_cfg)
    block.train()(maps(3, 8, 8, n=1)).square().sum().backward()
    assert block.aspp.pooled.norm.weight.grad is not None
    assert all(parameter.grad is not None for parameter in block.parameters())
