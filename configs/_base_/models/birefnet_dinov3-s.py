# BiRefNet (Zheng et al., 2024) with DINOv3-S, frozen. Its maps, all of stride 16, are converted to a pyramid with the
# channels of Swin-L.
_base_ = './birefnet.py'
model = dict(
    backbone=dict(
        type='mmbirefnet.TIMMBackbone',
        model_name='vit_small_patch16_dinov3',
        out_indices=(3, 5, 7, 11),
        pretrained=True,
        frozen=True,
    ),
    backbone_channels=[384] * 4,
    neck=dict(type='mmbirefnet.PyramidLocalizationModule', out_channels=[384, 768, 1536, 3072]),
    decode_head=dict(inward_channels=[96] * 5),
)
