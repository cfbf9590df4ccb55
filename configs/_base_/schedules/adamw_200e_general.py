# The reference's recipe for general use: the losses of DIS5K and the mean absolute error.
_base_ = './adamw_150e.py'
max_epochs = 200
train_cfg = dict(max_epochs=max_epochs, val_begin=max_epochs - 50)
loss_decode = [
    dict(type='mmbirefnet.BCELoss', loss_weight=30.0),
    dict(type='mmbirefnet.IoULoss', loss_weight=0.5),
    dict(type='mmbirefnet.MAELoss', loss_weight=100.0),
    dict(type='mmbirefnet.SSIMLoss', loss_weight=10.0),
]
custom_hooks = [
    dict(type='mmbirefnet.LossScheduleHook', last_epochs=20, factors=dict(BCELoss=0.0, IoULoss=0.5, MAELoss=0.9)),
]
