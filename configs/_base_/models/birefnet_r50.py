# BiRefNet (Zheng et al., 2024) with ResNet-50.
_base_ = './birefnet_swin-t.py'
in_channels = [512, 1024, 2048, 4096]
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmseg.ResNet',
        depth=50,
        init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet50.imagenet1k_v2'),
    ),
    neck=dict(in_channels=in_channels),
    decode_head=dict(in_channels=in_channels),
)
