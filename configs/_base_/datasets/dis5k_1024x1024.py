# DIS5K (https://xuebinqin.github.io/dis): trained on DIS-TR, validated on DIS-VD, tested on DIS-VD and DIS-TE1..4.
_base_ = './dichotomous_1024x1024.py'
dataset_type = 'mmbirefnet.DIS5KDataset'
train_dataloader = dict(dataset=dict(type=dataset_type, sets='DIS-TR'))
val_dataloader = dict(dataset=dict(type=dataset_type, sets='DIS-VD'))
test_dataloader = dict(dataset=dict(type=dataset_type, sets=['DIS-VD', 'DIS-TE1', 'DIS-TE2', 'DIS-TE3', 'DIS-TE4']))
