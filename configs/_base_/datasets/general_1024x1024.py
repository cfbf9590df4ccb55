# General use at 1024x1024.
_base_ = ['./dichotomous_1024x1024.py', './general_sets.py']
train_dataloader = dict(dataset=dict(type=_base_.dataset_type, sets=_base_.train_sets))
val_dataloader = dict(dataset=dict(type=_base_.dataset_type, sets='DIS-VD'))
test_dataloader = dict(dataset=dict(type=_base_.dataset_type, sets=_base_.test_sets))
