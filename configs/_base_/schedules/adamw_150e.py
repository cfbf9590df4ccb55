# The reference's schedule for COD, HRSOD and matting: constant learning rate, 1e-5 * sqrt(images per GPU / 4).
_base_ = './adamw_500e.py'
max_epochs = 150
optim_wrapper = dict(optimizer=dict(lr=1e-5))
train_cfg = dict(max_epochs=max_epochs, val_begin=max_epochs - 50)
