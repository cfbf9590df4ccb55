# Arguments of a head of mmsegmentation, and of an auxiliary head, that predicts one map of probabilities.
one_map = dict(num_classes=2, out_channels=1, threshold=0.5)
auxiliary_head = dict(loss_decode=dict(_delete_=True, type='mmbirefnet.BCELoss', loss_weight=12.0), **one_map)
