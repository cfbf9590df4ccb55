# General use with pictures of any size: each batch of the training has another, at random; tests are at 1024x1024.
_base_ = './general_1024x1024.py'
min_size = (256, 256)  # width, height
max_size = (2304, 2304)
train_pipeline = [
    *_base_.train_pipeline[:2],
    dict(type='mmbirefnet.ResizeToBatch'),
    *_base_.train_pipeline[3:],
]
train_dataloader = dict(
    drop_last=False,  # the batch sampler does it
    batch_sampler=dict(
        type='mmbirefnet.DynamicSizeBatchSampler', min_size=min_size, max_size=max_size, divisor=32, drop_last=True
    ),
    dataset=dict(pipeline=train_pipeline),
)
