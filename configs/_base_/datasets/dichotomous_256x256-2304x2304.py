# Images and masks of any size: each training batch has a random size; tests are at 1024x1024.
_base_ = './dichotomous_1024x1024.py'
min_size = (256, 256)  # width, height
max_size = (2304, 2304)
# As in the reference, augmentations run at the original size, before the anti-aliased resize.
train_pipeline = [
    _base_.load_image,
    _base_.load_mask,
    *_base_.augmentations,
    dict(type='mmbirefnet.ResizeToBatch'),
    _base_.pack,
]
train_dataloader = dict(
    drop_last=False,  # the batch sampler does it
    batch_sampler=dict(
        type='mmbirefnet.DynamicSizeBatchSampler', min_size=min_size, max_size=max_size, divisor=32, drop_last=True
    ),
    dataset=dict(pipeline=train_pipeline),
)
