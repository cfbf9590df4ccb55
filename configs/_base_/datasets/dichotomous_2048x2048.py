# Images and masks at 2048x2048.
_base_ = './dichotomous_1024x1024.py'
image_size = (2048, 2048)  # width, height
resize = dict(type='mmbirefnet.Resize', scale=image_size)
train_pipeline = [_base_.load_image, _base_.load_mask, resize, *_base_.augmentations, _base_.pack]
test_pipeline = [_base_.load_test_image, resize, _base_.load_mask, _base_.pack]
# 7/8, 1 and 9/8 of the size, in multiples of 32
tta_resizes = [dict(type='mmbirefnet.Resize', scale=size) for size in ((1792, 1792), image_size, (2304, 2304))]
tta_transforms = [tta_resizes, _base_.tta_flips, [_base_.load_mask], [_base_.pack]]
tta_pipeline = [_base_.load_image, dict(type='TestTimeAug', transforms=tta_transforms)]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
