# High-resolution salient object detection: trained on three sets, validated on DAVIS-S (the smallest), tested on five.
_base_ = './dichotomous_1024x1024.py'
dataset_type = 'mmbirefnet.HRSODDataset'
train_dataloader = dict(dataset=dict(type=dataset_type, sets=['TR-DUTS', 'TR-HRSOD', 'TR-UHRSD']))
val_dataloader = dict(dataset=dict(type=dataset_type, sets='DAVIS-S'))
test_dataloader = dict(
    dataset=dict(type=dataset_type, sets=['DAVIS-S', 'TE-HRSOD', 'TE-UHRSD', 'TE-DUTS', 'DUT-OMRON'])
)
