# BiRefNet (Zheng et al., 2024) with DINOv3-H+, frozen. Its maps, all of stride 16, become a pyramid of Swin-L's widths.
_base_ = './birefnet_swin-t.py'
in_channels = [384, 768, 1536, 3072]
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmbirefnet.TIMMBackbone',
        model_name='vit_huge_plus_patch16_dinov3',
        out_indices=(7, 15, 23, 31),
        pretrained=True,
        frozen=True,
    ),
    neck=dict(
        type='mmbirefnet.PyramidLocalizationModule',
        in_channels=[2560] * 4,
        out_channels=in_channels,
    ),
    decode_head=dict(in_channels=in_channels, inward_channels=[320] * 5),
)
