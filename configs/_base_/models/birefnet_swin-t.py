# BiRefNet (Zheng et al., 2024) with Swin-T.
_base_ = './birefnet.py'
model = dict(
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
    backbone_channels=[96, 192, 384, 768],
)
