# BiRefNet (Zheng et al., 2024) with PVTv2-B0.
_base_ = './birefnet.py'
model = dict(
    backbone=dict(type='mmbirefnet.TIMMBackbone', model_name='pvt_v2_b0', pretrained=True, drop_path_rate=0.1),
    backbone_channels=[32, 64, 160, 256],
)
