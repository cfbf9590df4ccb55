# BiRefNet (Zheng et al., 2024) with DINOv3-7B, frozen.
_base_ = './birefnet_dinov3-s.py'
model = dict(
    backbone=dict(model_name='vit_7b_patch16_dinov3', out_indices=(9, 19, 29, 39)),
    backbone_channels=[4096] * 4,
    decode_head=dict(inward_channels=[1024] * 5),
)
