# General use at 512x512. The sets of BiRefNet_512x512 are not published: these are the general ones.
_base_ = './general_1024x1024.py'
image_size = (512, 512)  # width, height

resize = dict(type='mmbirefnet.Resize', scale=image_size)
train_pipeline = [*_base_.train_pipeline[:2], resize, *_base_.train_pipeline[3:]]
test_pipeline = [_base_.test_pipeline[0], resize, *_base_.test_pipeline[2:]]
tta_pipeline = _base_.tta_pipeline
# 7/8, 1 and 9/8 of the size, in multiples of 32
tta_pipeline[1].transforms[0] = [
    dict(type='mmbirefnet.Resize', scale=tuple(round(side * eighths / 256) * 32 for side in image_size))
    for eighths in (7, 8, 9)
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
