# General use at 512x512. The training sets of BiRefNet_512x512 are not published; these are the general ones.
_base_ = ['./dichotomous_512x512.py', './general_sets.py']
train_dataloader = dict(dataset=dict(type=_base_.dataset_type, sets=_base_.train_sets))
val_dataloader = dict(dataset=dict(type=_base_.dataset_type, sets='DIS-VD'))
test_dataloader = dict(dataset=dict(type=_base_.dataset_type, sets=_base_.test_sets))
