# BiRefNet (Zheng et al., 2024) with Swin-B.
_base_ = './birefnet_swin-t.py'
in_channels = [256, 512, 1024, 2048]
model = dict(
    backbone=dict(
        arch='b',
        init_cfg=dict(
            checkpoint='https://github.com/SwinTransformer/storage/releases/download/v1.0.0/'
            'swin_base_patch4_window12_384_22kto1k.pth',
        ),
    ),
    neck=dict(in_channels=in_channels),
    decode_head=dict(in_channels=in_channels),
)
