# BiRefNet (Zheng et al., 2024) with DINOv3-H+, frozen.
_base_ = './birefnet_dinov3-s.py'
model = dict(
    backbone=dict(model_name='vit_huge_plus_patch16_dinov3', out_indices=(7, 15, 23, 31)),
    backbone_channels=[1280] * 4,
    decode_head=dict(inward_channels=[320] * 5),
)
