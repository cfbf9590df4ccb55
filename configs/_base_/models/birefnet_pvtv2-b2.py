# BiRefNet (Zheng et al., 2024) with PVTv2-B2.
_base_ = './birefnet_swin-t.py'
in_channels = [128, 256, 640, 1024]
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmbirefnet.TIMMBackbone',
        model_name='pvt_v2_b2',
        pretrained=True,
        drop_path_rate=0.1,
    ),
    neck=dict(in_channels=in_channels),
    decode_head=dict(in_channels=in_channels),
)
