# Your own images at 2048x2048. data_root contains im/ and gt/, of which a tenth is held out, or train/ and val/
# with these in each.
_base_ = './dichotomous_2048x2048.py'
dataset_type = 'mmbirefnet.FolderDataset'
train_dataloader = dict(
    drop_last=False,  # there may be fewer images than in a batch
    dataset=dict(type=dataset_type, split='train'),
)
val_dataloader = dict(dataset=dict(type=dataset_type, split='val'))
test_dataloader = dict(dataset=dict(type=dataset_type, split='val', skip_missing_sets=False))
