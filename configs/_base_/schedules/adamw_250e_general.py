# The reference's recipe for general use of wide pictures (General-2K): validates every second of the last 30 epochs.
_base_ = './adamw_200e_general.py'
max_epochs = 250
train_cfg = dict(max_epochs=max_epochs, val_begin=max_epochs - 30, val_interval=2)
