# BiRefNet (Zheng et al., 2024) with DINOv3-B, frozen.
_base_ = './birefnet_dinov3-s.py'
model = dict(
    backbone=dict(model_name='vit_base_patch16_dinov3'),
    backbone_channels=[768] * 4,
    decode_head=dict(inward_channels=[192] * 5),
)
