# BiRefNet (Zheng et al., 2024) without a backbone and losses. Add model.backbone and model.backbone_channels.
norm_cfg = dict(type='BN')
model = dict(
    type='mmbirefnet.BiRefNet',
    data_preprocessor=dict(
        type='mmseg.SegDataPreProcessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        size_divisor=32,
    ),
    multi_scale_input=True,
    neck=dict(type='mmbirefnet.LocalizationModule', context=True, aux_classifier=False, norm_cfg=norm_cfg),
    decode_head=dict(
        type='mmbirefnet.BiRefHead',
        inward_reference=True,
        outward_reference=True,
        multi_scale_supervision=True,
        gradient_supervision=True,
        aspp_cfg=dict(conv_cfg=dict(type='DCNv2')),
        norm_cfg=norm_cfg,
    ),
    test_cfg=dict(mode='whole'),
)
