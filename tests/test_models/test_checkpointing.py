"""Gradient checkpointing changes what is kept, not what is computed."""

import pytest
import torch
from golden import image, model_config
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch import nn

from mmbirefnet.models.layers import activation_checkpointing as checkpointing
from mmbirefnet.registry import MODELS

ARCH = dict(embed_dims=8, depths=(1, 1, 1, 1), num_heads=(1, 2, 2, 2), window_size=4)
CHANNELS = (16, 32, 64, 128)


def build(with_cp: bool) -> nn.Module:
    torch.manual_seed(0)
    cfg = model_config(
        arch=ARCH,
        channels=CHANNELS,
        aspp_cfg=dict(branch_channels=16),
        with_cp=with_cp,
        loss_decode=dict(type='mmbirefnet.SSIMLoss'),
    )
    cfg['backbone'].update(with_cp=with_cp, drop_rate=0.1, attn_drop_rate=0.1)
    return MODELS.build(cfg).train()


def step(model: nn.Module) -> tuple[dict[str, torch.Tensor], int]:
    """Losses, gradients and buffers after a step, and the bytes of maps kept for the backward pass."""
    kept = {}
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
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


def assert_same_step(ours: dict, expected: dict) -> None:
    assert ours.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(ours[name], value, msg=lambda text, name=name: f'{name}: {text}')


@pytest.mark.soak
def test_cheap_maps_are_recomputed():
    ours, our_bytes = step(build(with_cp=False))
    token = checkpointing.inside_checkpoint.set(True)  # as inside a module that is checkpointed as a whole
    kept, kept_bytes = step(build(with_cp=False))
    checkpointing.inside_checkpoint.reset(token)
    assert_same_step(ours, kept)
    assert our_bytes < 0.7 * kept_bytes


@pytest.mark.soak
def test_same_step_in_less_memory():
    plain, plain_bytes = step(build(with_cp=False))
    checkpointed, checkpointed_bytes = step(build(with_cp=True))
    # Batches are counted and averaged once.
    assert_same_step(checkpointed, plain)
    norm = 'decode_head.blocks.1.reconstruction.norm_out'
    assert checkpointed[f'{norm}.num_batches_tracked'] == 1
    assert checkpointed[f'{norm}.running_mean'].any()
    assert checkpointed_bytes < 0.4 * plain_bytes


@pytest.mark.soak
def test_statistics_are_tracked_after_the_backward_pass():
    model = build(with_cp=True)
    step(model)
    step(model)
    assert model.decode_head.blocks['1'].reconstruction.norm_out.num_batches_tracked == 2
