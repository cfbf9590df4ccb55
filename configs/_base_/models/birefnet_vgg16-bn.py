# BiRefNet (Zheng et al., 2024) with VGG16 and BatchNorm.
_base_ = './birefnet_vgg16.py'
model = dict(
    backbone=dict(
        norm_cfg=dict(type='BN'),
        init_cfg=dict(
            checkpoint='https://download.openmmlab.com/mmclassification/v0/vgg/'
            'vgg16_bn_batch256_imagenet_20210208-7e55cd29.pth',
        ),
    ),
)
