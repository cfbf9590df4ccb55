"""Fuse BiRefNet for inference: layers that are linear in evaluation mode become one convolution."""

import copy
import itertools
import logging
from collections import defaultdict
from collections.abc import Iterator
from functools import partial

import mmcv.cnn
import mmcv.ops
import torch
import torch.nn.functional as F
from mmengine.logging import print_log
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_weights

from mmbirefnet.models import BiRefHead, BiRefNet, DCNv2, LocalizationModule
from mmbirefnet.models.backbones.swin import WindowAttention
from mmbirefnet.models.decode_heads.biref_head import BiRefBlock
from mmbirefnet.models.layers import ASPP, OutwardReference, ReconstructionBlock
from mmbirefnet.models.layers.aspp import ConvNormReLU, PooledBranch

# Exact types: subclasses such as mmcv's ConvWS2d transform their weights in the forward pass.
LINEAR_CONVS = (nn.Conv2d, mmcv.cnn.Conv2d, mmcv.ops.ModulatedDeformConv2dPack, DCNv2)
CONV_NORM_PAIRS = {
    ConvNormReLU: [('conv', 'norm')],
    PooledBranch: [('conv', 'norm')],
    OutwardReference: [('conv', 'norm')],
    ReconstructionBlock: [('conv_in', 'norm_in'), ('conv_out', 'norm_out')],
}
TRAINING_LAYERS = {
    BiRefBlock: 'side',
    OutwardReference: 'gradient',
    LocalizationModule: 'classifier',
    BiRefNet: 'auxiliary_head',
}


def fuse(model: BiRefNet, inplace: bool = False, dtype: torch.dtype | None = None) -> BiRefNet:
    """Copy a model for inference: same logits up to rounding, with fewer operations.

    - Every BatchNorm is folded into the convolution before it, also into deformable ones.
    - The last 3x3 convolution of the decoder and the 1x1 convolution of the logits become one.
    - Deformable branches with the same kernel size compute offsets and masks in one convolution. Their outputs are
      merged a few pixels at a time, so the maps are never allocated.
    - The position and shift biases of Swin's windows are computed once.
    - Layers that only training uses are removed.

    Parts that cannot be fused (other backbones, heads, norms, convolutions) stay unchanged, and a warning names them.

    Args:
        model: Trained model.
        inplace: Whether to change the model instead of a copy. A copy keeps all parameters in memory twice.
        dtype: Dtype of the autocast that the model is made for. Kernels are stored in it, so that autocast does not
            convert them in each pass; predictions are equal in every bit. ``None`` makes a model for any dtype.

    Returns:
        The fused model, in evaluation mode. It cannot be trained, and its state dict has other keys.

    Raises:
        TypeError: If ``model`` is not a BiRefNet.
    """
    if not isinstance(model, BiRefNet):
        raise TypeError(f'fuse: expected a mmbirefnet.BiRefNet, got {type(model).__name__}')
    fused = (model if inplace else copy.deepcopy(model)).eval().requires_grad_(False)
    if not fused.fused:
        _fuse_layers(fused)
    if dtype is not None:
        _store_kernels(fused, dtype)
    return fused


def _fuse_layers(fused: BiRefNet) -> None:
    """Fuse the layers of a model in place, and log the parts that stay."""
    fused.fused = True
    plain = defaultdict(list)
    for name, module in list(fused.named_modules()):
        for cls, layer in TRAINING_LAYERS.items():
            if isinstance(module, cls) and hasattr(module, layer):
                setattr(module, layer, None)
        for conv, norm in CONV_NORM_PAIRS.get(type(module), ()):
            if reason := _fold_norm(module, conv, norm):
                plain[reason].append(f'{name}.{conv}')
        if isinstance(module, WindowAttention):
            module.fix_biases()
    for module in list(fused.modules()):  # after the norms inside are folded
        for child, aspp in list(module.named_children()):
            if isinstance(aspp, ASPP):
                setattr(module, child, FusedASPP(aspp))
    if isinstance(fused.decode_head, BiRefHead):
        _fold_logits(fused.decode_head)
    else:
        plain[f'{type(fused.decode_head).__name__} is not a BiRefHead'].append('decode_head')
    if not any(isinstance(module, WindowAttention) for module in fused.backbone.modules()):
        plain[f"{type(fused.backbone).__name__} is not mmbirefnet's SwinTransformer"].append('backbone')
    for reason, (first, *others) in plain.items():
        more = f' and {len(others)} more' if others else ''
        print_log(f'fuse: not fused: {first}{more}: {reason}', 'current', logging.WARNING)


def _store_kernels(model: BiRefNet, dtype: torch.dtype) -> None:
    """Store in ``dtype`` what autocast converts to it.

    Kernels of deformable convolutions and those that merge their branches stay: not all backends compute in 16 bits.
    """
    merging = {module.aspp.merge.conv for module in model.modules() if isinstance(module, FusedASPP)}
    for module in model.modules():
        if type(module) in (nn.Linear, nn.Conv2d, mmcv.cnn.Conv2d) and module not in merging:
            module.to(dtype)
        elif isinstance(module, WindowAttention):
            module.fixed_biases = module.fixed_biases.to(dtype)


def _fold_norm(module: nn.Module, conv_name: str, norm_name: str) -> str | None:
    """Fold a norm into the convolution before it; return the reason if this is impossible."""
    conv, norm = getattr(module, conv_name), getattr(module, norm_name)
    if type(conv) not in LINEAR_CONVS:
        return f'{type(conv).__name__} is no convolution that a norm can be folded into'
    if not isinstance(norm, _BatchNorm) or norm.running_mean is None:
        return f'{type(norm).__name__} depends on the map'
    conv.weight, conv.bias = fuse_conv_bn_weights(
        conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )
    setattr(module, norm_name, nn.Identity())
    return None


def _fold_logits(head: BiRefHead) -> None:
    """Fold the 1x1 convolution of the logits into the last block; only a norm is between them."""
    block = head.blocks['1'].reconstruction
    if not isinstance(block.norm_out, nn.Identity):
        return
    classifier = head.conv_logits
    block.conv_out = _classify(block.conv_out, classifier.weight, classifier.bias)
    if block.shortcut is not None:
        block.shortcut = _classify(block.shortcut, classifier.weight, torch.zeros_like(classifier.bias))
    head.conv_logits = nn.Identity()


def _classify(conv: nn.Conv2d, kernel: Tensor, bias: Tensor) -> nn.Conv2d:
    """Merge ``conv`` and a 1x1 convolution after it into one."""
    kernel = kernel[:, :, 0, 0]
    weight = torch.einsum('om,mchw->ochw', kernel, conv.weight)
    return _conv(conv, weight, kernel @ conv.bias + bias)


def _conv(like: nn.Conv2d, weight: Tensor, bias: Tensor) -> nn.Conv2d:
    """A convolution with the geometry of ``like`` and another kernel."""
    conv = copy.deepcopy(like)
    conv.out_channels = len(weight)
    conv.weight, conv.bias = (nn.Parameter(value, requires_grad=False) for value in (weight, bias))
    return conv


class FusedASPP(nn.Module):
    """An ASPP for inference that needs little memory for its deformable branches.

    Branches with the same kernel size compute offsets and masks in one convolution, and the merging convolution is
    applied to a few pixels of a branch at a time.

    Args:
        aspp: The ASPP with folded norms; its merged convolutions are removed.
    """

    def __init__(self, aspp: ASPP) -> None:
        super().__init__()
        self.aspp = aspp
        groups = defaultdict(list)
        for i, branch in enumerate(aspp.branches):
            if isinstance(branch.conv, DCNv2) and isinstance(branch.norm, nn.Identity):
                conv = branch.conv.conv_offset
                groups[conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.out_channels].append(i)
        self.groups = list(groups.values())
        self.conv_offsets = nn.ModuleList()
        for group in self.groups:
            convs = [aspp.branches[i].conv.conv_offset for i in group]
            weight, bias = (torch.cat([getattr(conv, name) for conv in convs]) for name in ('weight', 'bias'))
            self.conv_offsets.append(_conv(convs[0], weight, bias))
        for i in itertools.chain(*self.groups):
            aspp.branches[i].conv.conv_offset = None

    def forward(self, x: Tensor) -> Tensor:
        """Convert ``(N, in_channels, H, W)`` to ``(N, out_channels, H, W)``."""
        return self.aspp.join(x, self._parts(x))

    def _parts(self, x: Tensor) -> Iterator[Tensor]:
        """Contribution of each branch to the merging convolution, ``(N, out_channels, H, W)``."""
        branches, kernels = self.aspp.branches, self.aspp.kernels()
        for group, conv_offset in zip(self.groups, self.conv_offsets):
            for i, offset_mask in zip(group, conv_offset(x).chunk(len(group), 1)):
                yield branches[i].conv.deform(x, offset_mask, partial(_merge, branches[i], kernels[i]))
        for i in set(range(len(branches))).difference(*self.groups):
            yield F.conv2d(branches[i](x), kernels[i])


def _merge(branch: ConvNormReLU, kernel: Tensor, values: Tensor) -> Tensor:
    """Apply the kernel of a merging 1x1 convolution to values ``(..., branch_channels)`` of a branch."""
    return F.linear(branch.act(values), kernel[:, :, 0, 0].to(values.dtype))
