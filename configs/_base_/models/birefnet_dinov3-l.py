# BiRefNet (Zheng et al., 2024) with DINOv3-L, frozen.
_base_ = './birefnet_dinov3-s.py'
model = dict(
    backbone=dict(model_name='vit_large_patch16_dinov3', out_indices=(5, 11, 17, 23)),
    backbone_channels=[1024] * 4,
    decode_head=dict(inward_channels=[256] * 5),
)
