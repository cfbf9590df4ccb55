# The reference's recipe for matting: no IoU, which soft masks have none of; SSIM counts less and less at the end.
_base_ = './adamw_150e.py'
loss_decode = [
    dict(type='mmbirefnet.BCELoss', loss_weight=30.0),
    dict(type='mmbirefnet.MAELoss', loss_weight=100.0),
    dict(type='mmbirefnet.SSIMLoss', loss_weight=10.0),
]
custom_hooks = [dict(type='mmbirefnet.LossScheduleHook', last_epochs=10, factors=dict(SSIMLoss=0.9))]
