# Fine-tuning: the losses and the learning rate of the reference's general models, whatever the batch size. (Its DIS5K
# models are trained with ten times this rate.)
max_epochs = 20
loss_decode = [
    dict(type='mmbirefnet.BCELoss', loss_weight=30.0),
    dict(type='mmbirefnet.IoULoss', loss_weight=0.5),
    dict(type='mmbirefnet.MAELoss', loss_weight=100.0),
    dict(type='mmbirefnet.SSIMLoss', loss_weight=10.0),
]
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-5, weight_decay=1e-2))
param_scheduler = []
train_cfg = dict(type='mmbirefnet.ResumableTrainLoop', max_epochs=max_epochs, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
custom_hooks = [
    dict(type='mmbirefnet.ReleasedCheckpointHook'),
    dict(type='mmbirefnet.MaskKindHook'),
]
