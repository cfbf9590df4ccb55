# BiRefNet (Zheng et al., 2024) with VGG16. Its first two stages form the stage of stride 4.
_base_ = './birefnet.py'
model = dict(
    backbone=dict(
        type='mmpretrain.VGG',
        depth=16,
        out_indices=(1, 2, 3, 4),
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://download.openmmlab.com/mmclassification/v0/vgg/'
            'vgg16_batch256_imagenet_20210208-db26f1a5.pth',
            prefix='backbone.',
        ),
    ),
    backbone_channels=[128, 256, 512, 512],
)
