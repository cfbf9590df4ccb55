# BiRefNet (Zheng et al., 2024) with DINOv3-S, frozen. Its maps, all of stride 16, become a pyramid of Swin-L's widths.
_base_ = './birefnet_swin-t.py'
in_channels = [384, 768, 1536, 3072]
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmbirefnet.TIMMBackbone',
        model_name='vit_small_patch16_dinov3',
        out_indices=(3, 5, 7, 11),
        pretrained=True,
        frozen=True,
    ),
    neck=dict(
        type='mmbirefnet.PyramidLocalizationModule',
        in_channels=[768] * 4,
        out_channels=in_channels,
    ),
    decode_head=dict(in_channels=in_channels, inward_channels=[96] * 5),
)
