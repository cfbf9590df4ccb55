# BiRefNet (Zheng et al., 2024) with PVTv2-B2.
_base_ = './birefnet_pvtv2-b1.py'
model = dict(backbone=dict(model_name='pvt_v2_b2'))
