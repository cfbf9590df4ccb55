# BiRefNet (Zheng et al., 2024) with Swin-T. Multi-scale input doubles the backbone's channels.
norm_cfg = dict(type='BN')
in_channels = [192, 384, 768, 1536]
model = dict(
    type='mmbirefnet.BiRefNet',
    data_preprocessor=dict(
        type='mmseg.SegDataPreProcessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        size_divisor=32,
    ),
    backbone=dict(
        type='mmbirefnet.SwinTransformer',
        arch='t',
        drop_path_rate=0.2,
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://github.com/SwinTransformer/storage/releases/download/v1.0.8/'
            'swin_tiny_patch4_window7_224_22kto1k_finetune.pth',
        ),
    ),
    multi_scale_input=True,
    neck=dict(
        type='mmbirefnet.LocalizationModule',
        in_channels=in_channels,
        context=True,
        aux_classifier=False,
        norm_cfg=norm_cfg,
    ),
    decode_head=dict(
        type='mmbirefnet.BiRefHead',
        in_channels=in_channels,
        inward_reference=True,
        outward_reference=True,
        multi_scale_supervision=True,
        gradient_supervision=True,
        aspp_cfg=dict(conv_cfg=dict(type='DCNv2')),
        norm_cfg=norm_cfg,
        loss_decode=[
            dict(type='mmbirefnet.BCELoss', loss_weight=30.0),
            dict(type='mmbirefnet.IoULoss', loss_weight=0.5),
            dict(type='mmbirefnet.SSIMLoss', loss_weight=10.0),
        ],
    ),
    test_cfg=dict(mode='whole'),
)
