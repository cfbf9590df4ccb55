# BiRefNet_HR or BiRefNet_HR-matting on your own images: --cfg-options data_root=DIR load_from=CHECKPOINT.
# See docs/finetune.md.
_base_ = '../birefnet/birefnet_swin-l_1xb2-20e_finetune-1024x1024.py'
image_size = (2048, 2048)  # width, height

resize = dict(type='mmbirefnet.Resize', scale=image_size)
train_pipeline = [*_base_.train_pipeline[:2], resize, *_base_.train_pipeline[3:]]
test_pipeline = [_base_.test_pipeline[0], resize, *_base_.test_pipeline[2:]]
tta_pipeline = _base_.tta_pipeline
# 7/8, 1 and 9/8 of the size, in multiples of 32
tta_pipeline[1].transforms[0] = [
    dict(type='mmbirefnet.Resize', scale=tuple(round(side * eighths / 256) * 32 for side in image_size))
    for eighths in (7, 8, 9)
]
model = dict(backbone=dict(with_cp=True), decode_head=dict(with_cp=True))
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
