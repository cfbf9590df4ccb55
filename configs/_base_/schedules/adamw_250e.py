# The reference's schedule for general use with wide images: constant learning rate, 1e-5 * sqrt(images per GPU / 4).
_base_ = './adamw_500e.py'
max_epochs = 250
optim_wrapper = dict(optimizer=dict(lr=1e-5))
train_cfg = dict(max_epochs=max_epochs, val_begin=max_epochs - 30, val_interval=2)
