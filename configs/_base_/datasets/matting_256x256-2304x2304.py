# Matting with images of any size.
# The training sets of the released models of dynamic size are not published; these are those of matting.
_base_ = ['./dichotomous_256x256-2304x2304.py', './matting_sets.py']
train_dataloader = dict(dataset=dict(type=_base_.dataset_type, sets=_base_.train_sets))
val_dataloader = dict(dataset=dict(type=_base_.dataset_type, sets='TE-P3M-500-NP'))
test_dataloader = dict(dataset=dict(type=_base_.dataset_type, sets=_base_.test_sets))
val_evaluator = dict(soft_masks=True, measures=['MAE', 'MSE', 'Smeasure', 'wFmeasure'])
test_evaluator = dict(soft_masks=True)
