# BiRefNet (Zheng et al., 2024) with VGG16 and BatchNorm. Its first two stages together are the one of stride 4.
_base_ = './birefnet_swin-t.py'
in_channels = [256, 512, 1024, 1024]
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmpretrain.VGG',
        depth=16,
        norm_cfg=dict(type='BN'),
        out_indices=(1, 2, 3, 4),
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://download.openmmlab.com/mmclassification/v0/vgg/'
            'vgg16_bn_batch256_imagenet_20210208-7e55cd29.pth',
            prefix='backbone.',
        ),
    ),
    neck=dict(in_channels=in_channels),
    decode_head=dict(in_channels=in_channels),
)
