# BiRefNet on mmsegmentation's Mix Transformer, SegFormer's backbone.
_base_ = [
    '../_base_/models/birefnet.py',
    '../_base_/datasets/dis5k_1024x1024.py',
    '../_base_/losses/dis5k.py',
    '../_base_/schedules/adamw_500e.py',
    '../_base_/default_runtime.py',
]
model = dict(
    backbone=dict(
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
    backbone_channels=[64, 128, 320, 512],
    decode_head=dict(loss_decode=_base_.loss_decode),
)
default_hooks = dict(loss_schedule=_base_.loss_schedule)
