# General use with images of any size: each training batch has its own random size; tests are at 1024x1024.
# The sets that the released models of dynamic size were trained on are not published: these are the general ones.
_base_ = './general_1024x1024.py'
min_size = (256, 256)  # width, height
max_size = (2304, 2304)
# As in the reference, augmentations work on the original size, and the anti-aliased resize comes last.
train_pipeline = [
    *_base_.train_pipeline[:2],
    *_base_.train_pipeline[3:-1],  # without Resize
    dict(type='mmbirefnet.ResizeToBatch'),
    _base_.train_pipeline[-1],
]
train_dataloader = dict(
    drop_last=False,  # the batch sampler does it
    batch_sampler=dict(
        type='mmbirefnet.DynamicSizeBatchSampler', min_size=min_size, max_size=max_size, divisor=32, drop_last=True
    ),
    dataset=dict(pipeline=train_pipeline),
)
