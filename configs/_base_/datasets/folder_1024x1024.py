# One's own images: data_root holds im/ and gt/, of which a tenth is held out, or train/ and val/ with these in them.
_base_ = './dis5k_1024x1024.py'
dataset_type = 'mmbirefnet.FolderDataset'
data_root = _base_.data_root
train_dataloader = dict(
    drop_last=False,  # there may be fewer images than a batch has
    dataset=dict(_delete_=True, type=dataset_type, data_root=data_root, split='train', pipeline=_base_.train_pipeline),
)
val_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type=dataset_type,
        data_root=data_root,
        split='val',
        pipeline=_base_.test_pipeline,
        test_mode=True,
    ),
)
test_dataloader = val_dataloader
