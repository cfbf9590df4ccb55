# BiRefNet (Zheng et al., 2024) with Swin-S.
_base_ = './birefnet_swin-t.py'
in_channels = [192, 384, 768, 1536]
model = dict(
    backbone=dict(
        arch='s',
        init_cfg=dict(
            checkpoint='https://github.com/SwinTransformer/storage/releases/download/v1.0.8/'
            'swin_small_patch4_window7_224_22kto1k_finetune.pth',
        ),
    ),
    neck=dict(in_channels=in_channels),
    decode_head=dict(in_channels=in_channels),
)
