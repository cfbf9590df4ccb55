# BiRefNet (Zheng et al., 2024) with Swin-B.
_base_ = './birefnet.py'
model = dict(
    backbone=dict(
        type='mmbirefnet.SwinTransformer',
        arch='b',
        drop_path_rate=0.2,
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://github.com/SwinTransformer/storage/releases/download/v1.0.0/'
            'swin_base_patch4_window12_384_22kto1k.pth',
        ),
    ),
    backbone_channels=[128, 256, 512, 1024],
)
