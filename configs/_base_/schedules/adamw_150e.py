# The reference's recipe for COD and HRSOD: constant learning rate, 1e-5 * sqrt(images per GPU / 4).
_base_ = './adamw_500e.py'
max_epochs = 150
optim_wrapper = dict(optimizer=dict(lr=1e-5))
train_cfg = dict(max_epochs=max_epochs, val_begin=max_epochs - 50)
custom_hooks = [
    dict(type='mmbirefnet.LossScheduleHook', last_epochs=20, factors=dict(BCELoss=0.0, IoULoss=0.5)),
]
