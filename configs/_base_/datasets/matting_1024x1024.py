# Matting: masks stay soft, and MAE and MSE compare predictions with them (the other measures threshold masks at 128,
# as in published tables).
_base_ = ['./dichotomous_1024x1024.py', './matting_sets.py']
train_dataloader = dict(dataset=dict(type=_base_.dataset_type, sets=_base_.train_sets))
val_dataloader = dict(dataset=dict(type=_base_.dataset_type, sets='TE-P3M-500-NP'))
test_dataloader = dict(dataset=dict(type=_base_.dataset_type, sets=_base_.test_sets))
val_evaluator = dict(soft_masks=True, measures=['MAE', 'MSE', 'Smeasure', 'wFmeasure'])
test_evaluator = dict(soft_masks=True)
