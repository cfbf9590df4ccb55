# Camouflaged object detection: trained on COD10K and CAMO, validated on CHAMELEON (the smallest), tested on four sets.
_base_ = './dichotomous_1024x1024.py'
dataset_type = 'mmbirefnet.CODDataset'
train_dataloader = dict(dataset=dict(type=dataset_type, sets=['TR-COD10K', 'TR-CAMO']))
val_dataloader = dict(dataset=dict(type=dataset_type, sets='CHAMELEON'))
test_dataloader = dict(dataset=dict(type=dataset_type, sets=['TE-CAMO', 'CHAMELEON', 'TE-COD10K', 'NC4K']))
