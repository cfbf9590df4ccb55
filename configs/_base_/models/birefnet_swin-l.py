# BiRefNet (Zheng et al., 2024) with Swin-L.
_base_ = './birefnet.py'
model = dict(
    backbone=dict(
        type='mmbirefnet.SwinTransformer',
        arch='l',
        drop_path_rate=0.2,
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://github.com/SwinTransformer/storage/releases/download/v1.0.0/'
            'swin_large_patch4_window12_384_22kto1k.pth',
        ),
    ),
    backbone_channels=[192, 384, 768, 1536],
)
