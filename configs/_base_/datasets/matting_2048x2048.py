# Matting at high resolution, 2048x2048.
_base_ = ['./dichotomous_2048x2048.py', './matting_sets.py']
train_dataloader = dict(dataset=dict(type=_base_.dataset_type, sets=_base_.train_sets))
val_dataloader = dict(dataset=dict(type=_base_.dataset_type, sets='TE-P3M-500-NP'))
test_dataloader = dict(dataset=dict(type=_base_.dataset_type, sets=_base_.test_sets))
val_evaluator = dict(soft_masks=True, measures=['MAE', 'MSE', 'Smeasure', 'wFmeasure'])
test_evaluator = dict(soft_masks=True)
