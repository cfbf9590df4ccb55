# The reference's losses for segmentation (DIS5K, COD, HRSOD), and the factors of their weights in each of the last
# epochs. Configs use them as model.decode_head.loss_decode and default_hooks.loss_schedule.
loss_decode = [
    dict(type='mmbirefnet.BCELoss', loss_weight=30.0),
    dict(type='mmbirefnet.IoULoss', loss_weight=0.5),
    dict(type='mmbirefnet.SSIMLoss', loss_weight=10.0),
]
loss_schedule = dict(type='mmbirefnet.LossScheduleHook', last_epochs=40, factors=dict(BCELoss=0.0, IoULoss=0.5))
