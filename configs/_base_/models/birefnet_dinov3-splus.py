# BiRefNet (Zheng et al., 2024) with DINOv3-S+, frozen.
_base_ = './birefnet_dinov3-s.py'
model = dict(backbone=dict(model_name='vit_small_plus_patch16_dinov3'))
