"""BiRefNet on backbones of timm, mmseg and mmpretrain, named in the config alone."""

import logging

import pytest
import torch
from golden import image, model_config
from mmengine.logging import MMLogger
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from mmbirefnet.deploy import fuse
from mmbirefnet.registry import MODELS

PYRAMID = (16, 24, 32, 40)
# Config and channels of each backbone; small ones where their libraries can make such.
BACKBONES = {
    'pvtv2': (
        dict(type='mmbirefnet.TIMMBackbone', model_name='pvt_v2_b0', depths=(1, 1, 1, 1), embed_dims=(16, 32, 40, 64)),
        (16, 32, 40, 64),
    ),
    'vgg16-bn': (
        dict(type='mmpretrain.VGG', depth=16, norm_cfg=dict(type='BN'), out_indices=(1, 2, 3, 4)),
        (128, 256, 512, 512),
    ),
    'resnet': (dict(type='mmseg.ResNet', depth=50, base_channels=8), (32, 64, 128, 256)),
    'dinov3': (
        dict(
            type='mmbirefnet.TIMMBackbone',
            model_name='vit_small_patch16_dinov3',
            out_indices=(0, 1, 2, 3),
            depth=4,
            embed_dim=48,
            num_heads=3,
        ),
        (48, 48, 48, 48),
    ),
    'convnext': (
        dict(
            type='mmpretrain.ConvNeXt',
            arch=dict(depths=(1, 1, 1, 1), channels=(16, 24, 32, 40)),
            out_indices=(0, 1, 2, 3),
            gap_before_final_norm=False,
        ),
        (16, 24, 32, 40),
    ),
    'swinv2': (
        dict(
            type='mmpretrain.SwinTransformerV2',
            arch=dict(embed_dims=16, depths=(1, 1, 1, 1), num_heads=(1, 2, 4, 8), extra_norm_every_n_blocks=0),
            img_size=64,
            window_size=(4, 4, 4, 4),
            pad_small_map=True,
            out_indices=(0, 1, 2, 3),
        ),
        (16, 32, 64, 128),
    ),
    'efficientnet': (
        dict(type='mmpretrain.EfficientNet', arch='b0', out_indices=(2, 3, 4, 6)),
        (24, 40, 112, 1280),
    ),
}


def build(name: str):
    backbone, channels = BACKBONES[name]
    channels = [2 * c for c in channels]
    head = dict(loss_decode=[dict(type='mmbirefnet.BCELoss'), dict(type='mmbirefnet.SSIMLoss')])
    cfg = model_config(channels=channels, **head)
    cfg['backbone'] = backbone
    if name == 'dinov3':
        neck = dict(type='mmbirefnet.PyramidLocalizationModule', in_channels=channels, out_channels=PYRAMID)
        cfg['neck'] = neck
        cfg['decode_head'] |= dict(in_channels=PYRAMID, inward_channels=[12] * 5)
    torch.manual_seed(0)
    return MODELS.build(cfg)


def samples(n: int, size: tuple[int, int]) -> list[SegDataSample]:
    result = []
    for i in range(n):
        sample = SegDataSample()
        sample.gt_sem_seg = PixelData(data=(image(i, 1, *size)[0, :1] > 0).float())
        result.append(sample)
    return result


@pytest.mark.parametrize('name', BACKBONES)
@pytest.mark.soak(keep=1)
def test_trains_and_fuses(name):
    model = build(name)
    model.train()
    size = (64, 96)
    losses = model(image(0, 2, *size), samples(2, size), mode='loss')
    total, _ = model.parse_losses(losses)
    total.backward()
    assert total.isfinite()
    dead = [key for key, parameter in model.named_parameters() if parameter.grad is None or not parameter.grad.any()]
    # A deformable convolution starts with offsets of zero, SSIM and BCE reach everything else.
    assert not dead, dead

    # The norms have seen a batch; fused, the logits are the same and the backbone is named as left plain.
    model.eval()
    messages = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    logger = MMLogger.get_current_instance()
    logger.addHandler(handler)
    try:
        fused = fuse(model)
    finally:
        logger.removeHandler(handler)
    kind = type(model.backbone).__name__
    assert [message for message in messages if f'not fused: backbone: {kind}' in message]
    with torch.no_grad():
        expected, found = (net(image(1, 1, *size), mode='tensor') for net in (model, fused))
    assert expected.shape == (1, 1, *size)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())


def test_inward_channels_of_the_decoder():
    model = build('dinov3')
    assert model.decode_head.inward.conv_out.out_channels == 12
    blocks = model.decode_head.blocks
    assert [blocks[k].reconstruction.conv_in.in_channels for k in '1234'] == [c + 12 for c in PYRAMID]
    cfg = model_config(channels=PYRAMID, inward_channels=[12] * 4)['decode_head']
    with pytest.raises(ValueError, match=r'inward_channels=\(12, 12, 12, 12\) must be five numbers'):
        MODELS.build(cfg)
