# BiRefNet on mmsegmentation's Mix Transformer, SegFormer's backbone.
_base_ = [
    '../_base_/models/birefnet_swin-t.py',
    '../_base_/datasets/dis5k_1024x1024.py',
    '../_base_/schedules/adamw_500e.py',
    '../_base_/default_runtime.py',
]
in_channels = [128, 256, 640, 1024]  # twice the backbone's, for the multi-scale input
model = dict(
    backbone=dict(
        _delete_=True,
        type='MixVisionTransformer',
        embed_dims=64,
        num_layers=[3, 4, 6, 3],
        num_heads=[1, 2, 5, 8],
        qkv_bias=True,
        drop_path_rate=0.1,
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://download.openmmlab.com/mmsegmentation/v0.5/pretrain/segformer/mit_b2_20220624-66e8bf70.pth',
        ),
    ),
    neck=dict(in_channels=in_channels),
    decode_head=dict(in_channels=in_channels),
)
