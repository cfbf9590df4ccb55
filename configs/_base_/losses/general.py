# The reference's losses for general use: those of DIS5K and the mean absolute error.
loss_decode = [
    dict(type='mmbirefnet.BCELoss', loss_weight=30.0),
    dict(type='mmbirefnet.IoULoss', loss_weight=0.5),
    dict(type='mmbirefnet.MAELoss', loss_weight=100.0),
    dict(type='mmbirefnet.SSIMLoss', loss_weight=10.0),
]
loss_schedule = dict(
    type='mmbirefnet.LossScheduleHook', last_epochs=20, factors=dict(BCELoss=0.0, IoULoss=0.5, MAELoss=0.9)
)
