# BiRefNet (Zheng et al., 2024) with DINOv3-L, frozen. Its maps, all of stride 16, become a pyramid of Swin-L's widths.
_base_ = './birefnet_swin-t.py'
in_channels = [384, 768, 1536, 3072]
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmbirefnet.TIMMBackbone',
        model_name='vit_large_patch16_dinov3',
        out_indices=(5, 11, 17, 23),
        pretrained=True,
        frozen=True,
    ),
    neck=dict(
        type='mmbirefnet.PyramidLocalizationModule',
        in_channels=[2048] * 4,
        out_channels=in_channels,
    ),
    decode_head=dict(in_channels=in_channels, inward_channels=[256] * 5),
)
