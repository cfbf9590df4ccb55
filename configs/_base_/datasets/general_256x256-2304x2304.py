# General use with images of any size.
# The training sets of the released models of dynamic size are not published; these are the general ones.
_base_ = ['./dichotomous_256x256-2304x2304.py', './general_sets.py']
train_dataloader = dict(dataset=dict(type=_base_.dataset_type, sets=_base_.train_sets))
val_dataloader = dict(dataset=dict(type=_base_.dataset_type, sets='DIS-VD'))
test_dataloader = dict(dataset=dict(type=_base_.dataset_type, sets=_base_.test_sets))
