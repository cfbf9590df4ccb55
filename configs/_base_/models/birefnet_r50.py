# BiRefNet (Zheng et al., 2024) with ResNet-50.
_base_ = './birefnet.py'
model = dict(
    backbone=dict(
        type='mmseg.ResNet',
        depth=50,
        init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet50.imagenet1k_v2'),
    ),
    backbone_channels=[256, 512, 1024, 2048],
)
