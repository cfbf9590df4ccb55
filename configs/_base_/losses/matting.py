# The reference's losses for matting: without IoU, which favors binary predictions.
loss_decode = [
    dict(type='mmbirefnet.BCELoss', loss_weight=30.0),
    dict(type='mmbirefnet.MAELoss', loss_weight=100.0),
    dict(type='mmbirefnet.SSIMLoss', loss_weight=10.0),
]
loss_schedule = dict(type='mmbirefnet.LossScheduleHook', last_epochs=10, factors=dict(SSIMLoss=0.9))
