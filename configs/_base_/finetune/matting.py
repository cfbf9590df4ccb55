# Recipe: masks whose gray levels matter (hair, glass, motion blur): no IoU loss, and the best checkpoint by MAE of the
# gray levels.
val_evaluator = dict(measures=['MAE', 'MSE', 'Smeasure', 'wFmeasure'])
default_hooks = dict(checkpoint=dict(save_best='MAE'), soft_masks=dict(masks='soft'))
