# What makes a head of mmsegmentation predict one map of probabilities, and the losses of DIS5K for it.
one_map = dict(num_classes=2, out_channels=1, threshold=0.5)
decode_head = dict(
    loss_decode=[
        dict(type='mmbirefnet.BCELoss', loss_weight=30.0),
        dict(type='mmbirefnet.IoULoss', loss_weight=0.5),
        dict(type='mmbirefnet.SSIMLoss', loss_weight=10.0),
    ],
    **one_map,
)
auxiliary_head = dict(loss_decode=dict(_delete_=True, type='mmbirefnet.BCELoss', loss_weight=12.0), **one_map)
