# The reference's recipe for DIS5K: constant learning rate for batches of 4 images per GPU.
max_epochs = 500
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-4, weight_decay=1e-2))
param_scheduler = []
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_begin=max_epochs - 50, val_interval=5)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
# The learning rate follows the square root of the batch per GPU: lr = 1e-4 * sqrt(batch / 4).
custom_hooks = [
    dict(type='mmbirefnet.LossScheduleHook', last_epochs=40, factors=dict(BCELoss=0.0, IoULoss=0.5)),
]
