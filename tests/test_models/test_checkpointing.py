"""Gradient checkpointing changes what is kept, not what is computed."""

import torch
from golden import image, model_config
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch import nn

from mmbirefnet.registry import MODELS

ARCH = dict(embed_dims=8, depths=(1, 1, 1, 1), num_heads=(1, 2, 2, 2), window_size=4)
CHANNELS = (16, 32, 64, 128)


def build(with_cp: bool) -> nn.Module:
    torch.manual_seed(0)
    cfg = model_config(arch=ARCH, channels=CHANNELS, aspp_cfg=dict(branch_channels=16), with_cp=with_cp)
    cfg['backbone']['with_cp'] = with_cp
    return MODELS.build(cfg).train()


def step(model: nn.Module) -> tuple[dict[str, torch.Tensor], int]:
    """Losses, gradients and buffers after a step, and the bytes kept for the backward pass."""
    kept = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    samples = [SegDataSample(gt_sem_seg=PixelData(data=mask)) for mask in image(1, 2, 64, 96)[:, :1].sigmoid()]
    torch.manual_seed(1)  # dropout
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        losses = model(image(0, 2, 64, 96), samples, mode='loss')
    total, _ = model.parse_losses(losses)
    total.backward()
    results = {name: loss.detach() for name, loss in losses.items()}
    results |= {f'grad {name}': parameter.grad for name, parameter in model.named_parameters()}
    return results | dict(model.named_buffers()), sum(kept.values())


def test_same_step_in_less_memory():
    plain, plain_bytes = step(build(with_cp=False))
    checkpointed, checkpointed_bytes = step(build(with_cp=True))
    assert plain.keys() == checkpointed.keys()
    for name, value in plain.items():
        # Batches are counted and averaged once.
        torch.testing.assert_close(checkpointed[name], value, msg=lambda text, name=name: f'{name}: {text}')
    norm = 'decode_head.blocks.1.reconstruction.norm_out'
    assert checkpointed[f'{norm}.num_batches_tracked'] == 1
    assert checkpointed[f'{norm}.running_mean'].any()
    assert checkpointed_bytes < 0.4 * plain_bytes


def test_statistics_are_tracked_after_the_backward_pass():
    model = build(with_cp=True)
    step(model)
    step(model)
    assert model.decode_head.blocks['1'].reconstruction.norm_out.num_batches_tracked == 2
